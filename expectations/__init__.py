"""Great Expectations suites, one a table. `sealr.data.validate` reads them."""
