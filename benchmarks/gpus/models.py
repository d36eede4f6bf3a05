"""The models of `benchmarks.gpu`, built as `tfdist.bench.contestant` asks for them."""

from __future__ import annotations

from tfdist.bench.models import Workload, drawn_bert
from tfdist.models.bert_config import BertConfig

LENGTH = {"bert_base": 128, "tiny": 8}
CONFIGS = {
    "bert_base": BertConfig(),
    "tiny": BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    ),
}


def bert_base(rows: int) -> Workload:
    """BERT-base, 12 layers of width 768, on 128 tokens."""
    return drawn_bert(rows, LENGTH["bert_base"], CONFIGS["bert_base"])


def tiny(rows: int) -> Workload:
    """One layer of width 16 on 8 tokens."""
    return drawn_bert(rows, LENGTH["tiny"], CONFIGS["tiny"])
