"""Toy weights for tests: tiny, randomly initialised from a seed, written in a second. Nothing they say is a result."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from sealr.data.tables import EMOTIONS, write_json
from sealr.weights import quiet

LINES = (
    "Recommend ten products from the candidate list based on user's interaction history and sentiment label "
    "from the reviews.",
    "Interaction history: 12,345,6789 Sentiment label: Strong Positive,Positive,Neutral,Negative,Strong Negative",
    "Candidate list: 1,2,3,4,5,6,7,8,9,10 The recommended items are",
    "I love it, it works great and I am happy. It broke and I am angry and disappointed. It is fine.",
)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on LINES: any text, one token per digit and the special tokens of SmolLM2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        LINES,
        trainers.BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special[1],
        eos_token=special[2],
        unk_token=special[0],
        pad_token=special[2],
        chat_template=CHAT,
    )


def toy_llama(folder: Path, seed: int = 0) -> Path:
    """A two-layer LLaMA of width 32 with toy_tokenizer, in Hugging Face layout."""
    tokenizer = toy_tokenizer()
    config = LlamaConfig(
        initializer_range=0.4,  # large: an adapter cannot reach the output layer, and its logits must be worth moving
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _save(LlamaForCausalLM(config), tokenizer, folder)


def toy_labeller(folder: Path, seed: int = 0) -> Path:
    """A one-layer BERT classifier of the 28 emotions, with large weights: different texts get different labels."""
    tokenizer = _bert_tokenizer()
    labels = dict(enumerate(reversed(EMOTIONS)))  # not in our order: readers must go by name
    config = _bert_config(
        len(tokenizer),
        id2label=labels,
        label2id={v: k for k, v in labels.items()},
        problem_type="multi_label_classification",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
        model.classifier.weight.data.normal_(std=0.4)
        return _save(model, tokenizer, folder)


def toy_encoder(folder: Path, seed: int = 0) -> Path:
    """The encoder alone, in the place of MiniLM."""
    tokenizer = _bert_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _save(BertModel(_bert_config(len(tokenizer)), add_pooling_layer=False), tokenizer, folder)


def toy_embedded(folder: Path, base: Path, seed: int = 0) -> Path:
    """A labeller folder like the shipped one: adapter and head (random) on ``base``, from toy_encoder."""
    from sealr.emotion import network as net

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder, _ = net.load_base(str(base))
        network = net.new_network(encoder, rank=2, alpha=4, base=str(base))
        for name, p in net.trainable(network).items():
            p.data.normal_(std=0.5 if "lora" in name else 1.0)
        net.save_network(network, folder, base=str(base))
    thresholds = dict.fromkeys(EMOTIONS, 0.5)
    write_json(
        {"base": str(base), "labels": list(EMOTIONS), "temperature": 1.0, "thresholds": thresholds}, folder / net.CARD
    )
    return folder


def _bert_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = toy_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="<|im_start|>",
        sep_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )


def _bert_config(vocabulary: int, **options: object) -> BertConfig:
    return BertConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=256, initializer_range=0.5, pad_token_id=0, **options,
    )  # fmt: skip


def _save(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return Path(folder)


def timeless(metrics: dict[str, float]) -> dict[str, float]:
    """A fine-tuning's metrics without what no two have in common."""
    assert metrics["train_seconds"] > 0
    return {name: value for name, value in metrics.items() if name != "train_seconds"}
