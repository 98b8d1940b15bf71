"""Every word of the grammar is one token, before and after saving."""

from transformers import CLIPTokenizer

from softalign.shapes.tokenizer import MAX_LENGTH, build_tokenizer, vocabulary


def test_one_token_per_word():
    tokenizer = build_tokenizer()
    assert all(len(tokenizer.tokenize(word)) == 1 for word in vocabulary())
    ids = tokenizer("a photo of three red circles").input_ids
    assert (len(ids), ids[0], ids[-1]) == (8, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_saved_tokenizer_is_the_same(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    text = "a photo of two yellow crosses and a white square, please"
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert loaded.model_max_length == MAX_LENGTH
    assert (
        loaded.decode(loaded(text).input_ids, skip_special_tokens=True)
        == "a photo of two yellow crosses and a white square , please"
    )
