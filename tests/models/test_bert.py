import pytest
import torch
from transformers import BertConfig, BertModel

from rung.models.bert import Bert

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80}


@pytest.fixture(params=["gelu", "gelu_new", "relu"])
def network(request) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, max_position_embeddings=40, hidden_act=request.param, **SIZES)
    made = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("bias") or "LayerNorm" in name:
                weight.add_(torch.randn_like(weight) / 5)
    return made


def rows(sizes):
    dice = torch.Generator().manual_seed(1)
    longest = max(sizes)
    ids = torch.randint(0, 50, (len(sizes), longest), generator=dice)
    return ids, torch.tensor(sizes)


def wanted(network, ids, sizes):
    with torch.inference_mode():
        return torch.cat(
            [
                network(input_ids=row[None, :size]).last_hidden_state.mean(1)
                for row, size in zip(ids, sizes, strict=True)
            ]
        )


@pytest.mark.parametrize("sizes", [[7, 7, 7], [1, 12, 5, 40], [3]])
def test_each_row_has_the_mean_that_transformers_gives_it_alone(network, sizes):
    ids, counts = rows(sizes)
    network = network.double()
    found = Bert(network.config.to_dict(), network.state_dict(), torch.float64).mean(ids, counts)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted(network, ids, counts), atol=1e-12, rtol=0)


def test_bf16_strays_by_its_rounding_alone(network):
    ids, counts = rows([9, 12, 30, 4])
    found = Bert(network.config.to_dict(), network.state_dict(), torch.bfloat16).mean(ids, counts)
    assert found.dtype == torch.float32
    cosine = torch.cosine_similarity(found, wanted(network, ids, counts))
    assert cosine.min() > 0.999


def test_names_may_have_the_prefix_of_a_larger_model_and_a_missing_weight_is_named(network):
    ids, counts = rows([4, 9])
    tensors = network.state_dict()
    plain = Bert(network.config.to_dict(), tensors, torch.float32).mean(ids, counts)
    nested = {f"bert.{name}": tensor for name, tensor in tensors.items()} | {"cls.bias": torch.zeros(2)}
    assert torch.equal(Bert(network.config.to_dict(), nested, torch.float32).mean(ids, counts), plain)
    del tensors["encoder.layer.1.output.dense.bias"]
    with pytest.raises(KeyError, match=r"encoder.layer.1.output.dense.bias"):
        Bert(network.config.to_dict(), tensors, torch.float32)
