import keras
import numpy as np
import pytest

from tfdist.config.schema import DataConfig
from tfdist.data.examples import TextExample
from tfdist.errors import ConfigError, DataError
from tfdist.models.tokenizer import WordTokenizer
from tfdist.tasks.base import create_dataset
from tfdist.tasks.registry import create_task
from tfdist.tasks.text_classification import TextClassification

EXAMPLES = [TextExample("Paris is big.", "yes"), TextExample("unbelievable", "no"), TextExample("", "yes")]
NAMES = ["no", "yes"]


def model_with_inputs(*names: str) -> keras.Model:
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    return keras.Model(inputs, sum(keras.ops.cast(x, "float32") for x in inputs.values()))


def test_encode(tokenizer):
    encoded = TextClassification().encode(EXAMPLES, NAMES, tokenizer, 5)
    assert [row.tolist() for row in encoded.ids] == [[2, 4, 5, 6, 3], [2, 7, 8, 9, 3], [2, 3]]
    assert encoded.labels.tolist() == [1, 0, 1]


def test_labels_are_not_needed_to_predict(tokenizer):
    assert TextClassification().encode([TextExample("Paris")], None, tokenizer, 5).labels is None


def test_a_label_that_the_model_does_not_know_is_refused(tokenizer):
    with pytest.raises(DataError, match="'maybe', which is none of"):
        TextClassification().encode([TextExample("Paris", "maybe")], NAMES, tokenizer, 5)


def test_an_empty_text_has_one_id_even_without_special_tokens():
    tokenizer = WordTokenizer.train(["a b"])
    encoded = TextClassification().encode([TextExample("")], None, tokenizer, 5)
    assert encoded.ids[0].tolist() == [tokenizer.unk_id]


def test_batches_have_the_inputs_of_the_model(tokenizer):
    encoded = TextClassification().encode(EXAMPLES, NAMES, tokenizer, 8)
    model = model_with_inputs("token_ids", "segment_ids", "padding_mask")
    (x, y), *_ = create_dataset(encoded, tokenizer, DataConfig(max_length=8, bucket_step=8), 3, model)
    assert x["padding_mask"].numpy().sum(1).tolist() == [len(row) for row in encoded.ids]
    assert not x["segment_ids"].numpy().any()
    assert y.numpy().tolist() == [1, 0, 1]
    one = model_with_inputs("token_ids")
    x, *_ = create_dataset(encoded, tokenizer, DataConfig(max_length=8), 3, one, with_labels=False)
    assert list(x) == ["token_ids"]


def test_report_and_description():
    task = TextClassification()
    logits = np.log(np.array([[0.2, 0.8], [0.4, 0.6], [0.1, 0.9]]))
    report = task.report(EXAMPLES, logits, None, NAMES)
    assert report["yes"] == {"precision": 2 / 3, "recall": 1.0, "f1-score": 0.8, "support": 2}
    first = next(task.describe(EXAMPLES, logits, None, NAMES))
    assert first == {"text": "Paris is big.", "label": "yes", "probabilities": {"no": 0.2, "yes": 0.8}}


def test_an_unknown_task_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'text-classification'.*token-classification"):
        create_task("text-clasification")
