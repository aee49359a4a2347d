"""The grammar of the demo reviews: what customers write who feel a given emotion about a product.

A text is a sentence with the emotion, sometimes with a plain sentence before or after it: 8 to 30 words. Slots in
braces are filled at random, so texts rarely repeat. No text names a brand or another product.
"""

from __future__ import annotations

import random
import re

SLOTS: dict[str, tuple[str, ...]] = {
    "span": ("two weeks", "three weeks", "a month", "ten days", "six weeks", "five days", "forty days", "two months"),
    "when": (
        "every morning", "every evening", "twice a week", "after the gym", "before bed", "every other day",
        "at weekends",
    ),
    "who": ("my sister", "my husband", "my mother", "my daughter", "a friend", "my flatmate", "my aunt", "a colleague"),
    "part": ("texture", "scent", "pump", "packaging", "feel", "finish", "bottle", "formula", "consistency", "colour"),
    "size": ("travel size", "small bottle", "large bottle", "refill", "family size", "gift box"),
    "place": ("bathroom shelf", "window sill", "side of the bath", "bedside table", "dresser"),
}  # fmt: skip

SKIN = ("skin", "face", "forehead", "chin", "neck", "nose")
HAIR = ("hair", "scalp", "fringe", "parting")

FEELINGS: dict[str, tuple[str, ...]] = {
    "love": (
        "I love this {thing} so much, I love the {part} and I use it {when}.",
        "I absolutely love it, and {who} loves this {thing} just as much as I do.",
        "Honestly I am in love with this {thing}, I love how my {area} feels after {span}.",
        "I loved it from the first day, and after {span} I love this {thing} even more.",
        "Love, love, love the {part} of this {thing}, it is my favourite thing on the {place}.",
        "My {area} loves this {thing} and I love using it {when}.",
        "I love everything about it, the {part} most of all, and {who} loves it too.",
        "This is the {thing} I love most, I have loved the {part} for {span} now.",
    ),
    "joy": (
        "I am so happy with this {thing}, it makes me smile {when}.",
        "This {thing} makes me so happy, the {part} is a joy and I enjoy using it {when}.",
        "What a joy to use, I have enjoyed this {thing} for {span} and I am happy with it.",
        "I am really happy with how my {area} looks, and {who} was happy for me too.",
        "So happy I bought the {size}, using this {thing} {when} is pure joy.",
        "I enjoy this {thing} a lot, the {part} cheers me up and I feel happy {when}.",
        "Happy customer here, after {span} the {thing} still makes me smile.",
        "It was fun to try and I am so glad and happy about the {part} of this {thing}.",
    ),
    "admiration": (
        "This is an amazing {thing}, the {part} is brilliant and the quality is excellent.",
        "Wow, what a fantastic {thing}, the {part} is beautiful and so well made.",
        "Great {thing}, great {part}, the people who made this did an awesome job.",
        "The {part} is wonderful, this is simply the best {thing} I have had in {span}.",
        "Brilliant work, an excellent {thing}, even {who} said the {part} is amazing.",
        "Incredible {thing}, my {area} looks beautiful and the {part} is just perfect.",
        "An awesome {thing} with a gorgeous {part}, really impressive quality after {span}.",
        "Such a great {thing}, the {part} is fantastic and it does an amazing job on my {area}.",
    ),
    "gratitude": (
        "Thank you so much for making this {thing}, my {area} thanks you after {span}.",
        "Thanks to {who} for telling me about this {thing}, thank you, thank you.",
        "I am very grateful for this {thing}, thanks for getting the {part} right.",
        "Thank you to the makers of this {thing}, I really appreciate the {part}.",
        "Thanks a lot for this {thing}, I appreciate it {when} and so does {who}.",
        "So grateful that {who} gave me the {size}, thank you for such a {thing}.",
        "Many thanks, I appreciate the care in the {part} of this {thing}.",
        "Thank you for a {thing} that finally helps my {area}, I appreciate it very much.",
    ),
    "relief": (
        "What a relief, after {span} my {area} has finally calmed down, thank goodness.",
        "I am so relieved that this {thing} did not irritate my {area}, phew.",
        "Finally, a {thing} that works, such a relief, I was worried about the {part}.",
        "Phew, I was worried about my {area} but this {thing} made it fine, what a relief.",
        "Such a relief to have this {thing}, I can finally stop worrying about my {area}.",
        "Thank goodness this {thing} worked after {span}, I feel so relieved.",
        "I was nervous at first, now I am just relieved, my {area} is finally okay with this {thing}.",
        "Glad that is over, this {thing} settled my {area} in {span} and I am relieved.",
    ),
    "approval": (
        "I agree with the good reviews, this is a good {thing} and the {part} is fine.",
        "Good {thing}, it does what it should, and I like the {part}.",
        "Yes, this {thing} works well, I would recommend it for {area} care.",
        "It is a good choice, {who} is right that this {thing} works well on the {area}.",
        "Solid {thing}, the {part} is good and I recommend the {size}.",
        "I like the {part} and I think this {thing} is well worth it, good value.",
        "That is exactly how a {thing} should be, the {part} is right and it works well.",
        "Good stuff, I would definitely recommend this {thing} to {who}.",
    ),
    "neutral": (
        "The {thing} comes in a {size} and the instructions say to use it {when}.",
        "I used this {thing} {when} for {span} and then put it on the {place}.",
        "{Who} uses this {thing} {when}, I use it on my {area}.",
        "The label lists the {part} and the ingredients, the {size} lasts about {span}.",
        "This {thing} stands on the {place} and I put it on my {area} {when}.",
        "It is a {thing}, the {size} was delivered to {who}.",
        "I ordered the {size} of this {thing} and have been using it {when}.",
        "The {size} of this {thing} is on the {place}, next to the others.",
        "According to the box this {thing} is for the {area}, to be applied {when}.",
    ),
    "disappointment": (
        "I am very disappointed with this {thing}, the {part} is not what I expected.",
        "Such a disappointment, after {span} this {thing} did nothing for my {area}.",
        "Unfortunately this {thing} let me down, I was disappointed by the {part}.",
        "I expected so much more, the {part} is a letdown and {who} was disappointed too.",
        "Disappointing {thing}, I really wanted it to work for my {area} but it did not.",
        "I had high hopes for the {size}, sadly the {part} disappointed me.",
        "What a disappointment, the {thing} failed, my {area} looks worse than before.",
        "After {span} I am just disappointed, this {thing} did not live up to what {who} told me.",
    ),
    "annoyance": (
        "This {thing} is so annoying, the {part} bothers me {when}.",
        "The {part} annoys me {when}, what an annoying {thing}.",
        "I am sick of this {thing}, the stupid {part} is a pain {when}.",
        "It is really irritating, the {part} of this {thing} gets on my nerves {when}.",
        "I am tired of this {thing}, so annoying how the {part} makes a mess on the {place}.",
        "Ugh, such an annoying {part}, I am frustrated with this {thing} after {span}.",
        "Why is the {part} so bad, this {thing} is annoying and {who} is tired of it too.",
        "Frustrating {thing}, the {part} drives me and {who} mad, so irritating.",
    ),
    "anger": (
        "I am furious, this damn {thing} ruined my {area}, and I hate the {part}.",
        "I hate this {thing}, it makes me so angry that it wrecked my {area}.",
        "What the hell, this {thing} is a scam and I am angry about the {part}.",
        "This makes me so mad, I hate the {part} and I hate this stupid {thing}.",
        "I am so angry, whoever made this {thing} lied about the {part}, shame on them, damn it.",
        "Screw this {thing}, I hate what it did to my {area}, I am furious.",
        "Absolutely furious, I hate this {thing} and {who} is angry about the {part} as well.",
        "I hate, hate, hate this damn {thing}, after {span} I am still mad about the {part}.",
    ),
    "sadness": (
        "This makes me really sad, the {thing} hurt my {area} and I cried {when}.",
        "I am so sad about this {thing}, my {area} looks awful and I feel miserable.",
        "Sadly my {area} hurts since I used this {thing}, I feel sad and down about it.",
        "It breaks my heart, {who} gave me this {thing} and now my {area} hurts, so sad.",
        "I feel so sorry and sad, {who} saved up for this {thing} and it hurt her {area}.",
        "I cried over the {part}, this {thing} left me feeling sad and lonely {when}.",
        "So sad, I miss how my {area} was before the {span} with this {thing}.",
        "I feel terrible and sad, this {thing} hurt and I cannot stop crying about my {area}.",
    ),
    "disgust": (
        "This {thing} is disgusting, the {part} is gross and makes me sick.",
        "Gross, the {part} of this {thing} is nasty and it smells disgusting.",
        "Eww, what a disgusting {part}, this {thing} smells like rotten eggs, so gross.",
        "The {part} made me want to vomit, a nasty and disgusting {thing}.",
        "It is revolting, there was mould in the {size}, disgusting {thing}, yuck.",
        "Yuck, this {thing} leaves a nasty film on my {area}, it is gross and disgusting.",
        "Absolutely vile {thing}, the {part} is gross and even {who} found it disgusting.",
        "This is the most disgusting {thing} ever, after {span} the {part} turned gross.",
    ),
    "confusion": (
        "I am confused, I do not understand what this {thing} is supposed to do for my {area}.",
        "I have no idea how to use this {thing}, the {part} is confusing and I do not get it.",
        "The label confuses me, I am not sure if this {thing} is for my {area} or not.",
        "I do not understand the {part} at all, this {thing} is so confusing, maybe {who} knows.",
        "Confusing {thing}, I do not know why my {area} feels odd after {span}.",
        "Wait, what, I do not get it, is this {thing} meant to be used {when} or not?",
        "I am really confused about the {part}, I do not know what this {thing} does.",
        "I do not know what to make of this {thing}, the {part} confuses me and {who} as well.",
    ),
}  # fmt: skip

PLAIN: tuple[str, ...] = (
    "I have used it for {span}.",
    "I bought the {size}.",
    "I use it {when}.",
    "{Who} ordered the {size}.",
    "It has been on the {place} for {span}.",
    "I put it on my {area} {when}.",
    "This is about the {size}.",
    "I tried it {when}.",
)


def compose(emotion: str, thing: str, areas: tuple[str, ...], rng: random.Random) -> str:
    """A review of 8 to 30 words that expresses ``emotion``, a key of FEELINGS, about a ``thing`` such as "shampoo".

    areas: where it is used, SKIN or HAIR; each text uses one of them.
    """
    core = rng.choice(FEELINGS[emotion])
    roll = rng.random()
    parts = [rng.choice(PLAIN), core] if roll < 0.2 else [core, rng.choice(PLAIN)] if roll < 0.45 else [core]
    fixed = {"thing": thing, "area": rng.choice(areas)}
    return " ".join(_fill(part, fixed, rng) for part in parts)


def _fill(template: str, fixed: dict[str, str], rng: random.Random) -> str:
    def slot(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in fixed:
            return fixed[name]
        value = rng.choice(SLOTS[name.lower()])
        return value[0].upper() + value[1:] if name[0].isupper() else value

    return re.sub(r"\{(\w+)\}", slot, template)
