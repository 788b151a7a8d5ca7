"""A GGUF file flows in, a stored model flows out, and back: llama.cpp and Ollama read such files."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from homespun import durable
from homespun.architectures.base import Family, Parameter, Part
from homespun.architectures.families import FAMILIES, family, model_config, parameters
from homespun.config import ModelConfig, SamplingConfig
from homespun.config.checked import shown
from homespun.errors import UserError
from homespun.model_formats.gguf_file import GGUFFile, read_gguf
from homespun.model_formats.gguf_tokenizer import (
    EOS,
    MERGES,
    MODEL,
    PRE,
    SCORES,
    SPACE_FIRST,
    TOKENS,
    TYPES,
    UNKNOWN_ID,
    chat_template_of,
    eos_of_template,
    from_metadata,
    to_metadata,
)
from homespun.model_formats.numbers import Floats, in_precision
from homespun.model_formats.parts import joined, part_shape
from homespun.model_formats.stored_model import StoredModel, in_order
from homespun.model_formats.tokenizer_files import (
    begins_with_separator,
    separator_name,
    turn_end,
)
from homespun.named_array import NamedArray
from homespun.tokenizer.chat_template import OWN

PRECISIONS = ("float32", "float16", "bfloat16", "int8")
SUFFIX = ".gguf"
MODELFILE = "Modelfile"

TYPE_OF = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "Q8_0"}
BLOCK = 32
"""Numbers of a row that share a scale with int8."""
FILE_TYPES = {"float32": 0, "float16": 1, "int8": 7, "bfloat16": 32}
"""llama.cpp's codes for the usual number format in a file."""

REFUSED = {
    "expert_count": "a mixture of experts",
    "attention.sliding_window": "a sliding window of attention",
}
"""Settings that change a model unless they are zero."""


def read(path: Path) -> StoredModel:
    """The model in a file; quantised weights become float32.

    Raises:
        UserError: the file is damaged, or holds a model that is not supported.
    """
    file = read_gguf(path)
    config = _config(file)
    tokenizer = from_metadata(file.metadata, str(path))
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{path}: its tokenizer has {tokenizer.vocab_size:,} tokens, its model only "
            f"{config.vocab_size:,}: get the file again"
        )
    layout = tensor_parts(config)
    expected = parameters(config)
    shapes = {part.name: part_shape(p, part) for p in expected for part in layout[p.name]}
    for name, shape in shapes.items():
        tensor = file.tensors.get(name)
        if tensor is None:
            raise UserError(f"{path}: the tensor {name} is missing: get the file again")
        if tensor.shape != shape:
            raise UserError(
                f"{path}: {name} is {list(tensor.shape)}, its metadata describes {list(shape)}: "
                "get the file again"
            )
    for name in file.tensors.keys() - shapes.keys():
        raise UserError(f"{path}: models of this family have no {name}: not supported")
    turn_back = _turns_of_rotary_pairs(config, back=True)
    reads = {name: file.tensors[name].read_floats for name in shapes}

    def tensors() -> Iterator[NamedArray]:
        for p in expected:
            yield p.name, turn_back(p.name, joined(p, layout[p.name], reads)())

    template = chat_template_of(file.metadata, tokenizer)
    return StoredModel(path, config, tokenizer, tensors, {}, 0, chat_template=template)


def _config(file: GGUFFile) -> ModelConfig:
    """The shape that the metadata describe.

    Raises:
        UserError: a model that this project does not have, or an entry is missing.
    """
    path, metadata = file.path, file.metadata
    name = metadata.get("general.architecture")
    kinds = {_architecture(kind): kind for kind in FAMILIES.values()}
    if not isinstance(name, str) or name not in kinds:
        raise UserError(
            f"{path}: models of type {shown(name)} are not supported: choose one of {', '.join(kinds)}"
        )
    layout = kinds[name].gguf

    def get(key: str, default: Any = None) -> Any:
        value = metadata.get(f"{name}.{key}", default)
        if value is None:
            raise UserError(f"{path}: {name}.{key} is missing: get the file again")
        if not isinstance(value, int | float | str):
            raise UserError(f"{path}: {name}.{key} is a list, which is not supported")
        return value

    for key, meaning in REFUSED.items():
        if get(key, 0) and key not in dict(layout.numbers):
            raise UserError(f"{path}: it has {meaning}, which is not supported")
    if get("rope.scaling.type", "none") != "none":
        raise UserError(f"{path}: it scales rotary positions, which is not supported")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise UserError(f"{path}: the tensor token_embd.weight is missing: get the file again")
    try:
        n_layers, n_heads = int(get("block_count")), int(get("attention.head_count"))
        if n_layers > len(file.tensors):
            raise UserError(f"{path}: {n_layers:,} layers, but {len(file.tensors):,} tensors")
        d_model = int(get("embedding_length"))
        head_dim = int(get("attention.key_length", d_model // n_heads))
        if layout.has_rotary_positions:
            turned = {
                int(get(key, head_dim))
                for key in ("rope.dimension_count", "attention.value_length")
            }
            if turned != {head_dim}:
                raise UserError(f"{path}: heads that are turned in part are not supported")
        return model_config(
            {
                "architecture": kinds[name].name,
                "vocab_size": embedding.shape[0],
                "seq_len": int(get("context_length")),
                "n_layers": n_layers,
                "d_model": d_model,
                "n_heads": n_heads,
                "n_kv_heads": int(get("attention.head_count_kv", n_heads)),
                "head_dim": head_dim,
                "d_ff": int(get("feed_forward_length")),
                "tie_embeddings": "output.weight" not in file.tensors,
                "norm_eps": _as_decimal(get(layout.norm_eps)),
                "rope_theta": _as_decimal(get("rope.freq_base", 10000.0)),
                **{field: int(get(key)) for key, field in layout.numbers},
            }
        )
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{path}: does not describe a model ({error}): get it again") from None


def _as_decimal(value: float) -> float:
    """The shortest decimal number that a float32 stands for: 1e-05, not 9.999999747378752e-06."""
    with np.errstate(over="ignore"):  # infinity is refused with the other settings
        return float(str(np.float32(value)))


def _architecture(kind: Family) -> str:
    """The name of a family in a GGUF file."""
    return kind.gguf.architecture or kind.name


def tensor_parts(config: ModelConfig) -> dict[str, list[Part]]:
    """The tensors of each parameter, under their names in a GGUF file."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    kind = family(config.architecture)
    architecture = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}[_architecture(kind)]
    assert isinstance(architecture, MODEL_ARCH)
    known = get_tensor_name_map(architecture, config.n_layers)

    def renamed(part: Part) -> Part:
        name = known.get_name(part.name, try_suffixes=(".weight", ".bias"))
        assert name is not None, part.name
        return part._replace(name=name)

    return {p.name: list(map(renamed, kind.merged_parts(p))) for p in parameters(config)}


def _turns_of_rotary_pairs(config: ModelConfig, *, back: bool) -> Callable[[str, Floats], Floats]:
    """A function that reorders the rows of queries and keys as llama.cpp stores them, or back."""
    interleaves = family(config.architecture).gguf.interleaves_rotary_pairs
    n_heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}

    def turn(name: str, values: Floats) -> Floats:
        heads = n_heads.get(name.split(".")[-2]) if interleaves else None
        if heads is None:
            return values
        halves = (config.head_dim // 2, 2) if back else (2, config.head_dim // 2)
        rows = values.reshape(heads, *halves, -1).swapaxes(1, 2)
        return np.ascontiguousarray(rows).reshape(values.shape)

    return turn


def write_file(model: StoredModel, path: Path, precision: str) -> None:
    """Write a model and its tokenizer into one file, which is flushed to the disk.

    Args:
        model: the model.
        path: the file, which does not exist yet.
        precision: one of `PRECISIONS`. Vectors, positions and routers stay float32, and with int8
            rows that are no multiple of 32 numbers.

    Raises:
        UserError: llama.cpp has no such tokenizer.
        OSError: the file cannot be written.
        OverflowError: a number is too large for the precision.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    config, kind = model.config, family(model.config.architecture)
    kind.check_for_gguf(config)
    writer = GGUFWriter(path, _architecture(kind))
    _add_metadata(writer, model, precision)
    layout, turn = tensor_parts(config), _turns_of_rotary_pairs(config, back=False)
    expected = parameters(config)
    stored_as = {
        p.name: GGMLQuantizationType[TYPE_OF[_precision_of(p, config, precision)]] for p in expected
    }

    def encoded(name: str, values: Floats) -> npt.NDArray[Any]:
        numbers = stored_as[name]
        if numbers.name == "F16":
            return in_precision(values, "float16")
        return values if numbers.name == "F32" else quantize(values, numbers)

    for p in expected:
        for part in layout[p.name]:
            shape = part_shape(p, part)
            sample = encoded(p.name, np.zeros((1, *shape[1:]), np.float32))
            n_bytes = sample.nbytes * shape[0]
            if len(shape) == 1:
                n_bytes = 4 * p.size
            else:
                shape = (shape[0], *sample.shape[1:])
            writer.add_tensor_info(part.name, shape, sample.dtype, n_bytes, stored_as[p.name])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in in_order(model, [p.name for p in expected]):
            values = turn(name, np.ascontiguousarray(tensor, np.float32))
            for part in layout[name]:
                piece = np.ascontiguousarray(values[part.place])
                writer.write_tensor_data(encoded(name, piece))
        writer.flush()
    finally:
        writer.close()
    with path.open("rb+") as file:
        durable.sync(file)


def _precision_of(p: Parameter, config: ModelConfig, precision: str) -> str:
    of_positions = p.group == "embedding" and p.shape[0] != config.vocab_size
    if (
        p.group == "vector"
        or p.is_router
        or of_positions
        or (precision == "int8" and p.shape[-1] % BLOCK)
    ):
        return "float32"
    return precision


def _add_metadata(writer: Any, model: StoredModel, precision: str) -> None:
    c, tokenizer = model.config, model.tokenizer
    kind = family(c.architecture)
    layout, name = kind.gguf, _architecture(kind)
    writer.add_name("homespun")
    writer.add_file_type(FILE_TYPES[precision])
    writer.add_quantization_version(2)
    numbers = {
        "block_count": c.n_layers,
        "context_length": c.seq_len,
        "embedding_length": c.d_model,
        "feed_forward_length": c.d_ff,
        "attention.head_count": c.n_heads,
        "attention.head_count_kv": c.n_kv_heads,
        "vocab_size": c.vocab_size,
        **{key: getattr(c, field) for key, field in layout.numbers},
    }
    if layout.has_rotary_positions:
        numbers["attention.key_length"] = numbers["attention.value_length"] = c.head_dim
        numbers["rope.dimension_count"] = c.head_dim
        writer.add_float32(f"{name}.rope.freq_base", c.rope_theta)
    for key, value in numbers.items():
        writer.add_uint32(f"{name}.{key}", value)
    writer.add_float32(f"{name}.{layout.norm_eps}", c.norm_eps)
    vocabulary: Mapping[str, Any] = to_metadata(tokenizer, c.vocab_size)
    writer.add_tokenizer_model(vocabulary[MODEL])
    writer.add_tokenizer_pre(vocabulary[PRE])
    writer.add_token_list(vocabulary[TOKENS])
    writer.add_token_types(vocabulary[TYPES])
    if MERGES in vocabulary:
        writer.add_token_merges(vocabulary[MERGES])
    else:
        writer.add_token_scores(vocabulary[SCORES])
        writer.add_unk_token_id(vocabulary[UNKNOWN_ID])
        writer.add_add_space_prefix(vocabulary[SPACE_FIRST])
    eos = vocabulary[EOS]
    bos = tokenizer.eot_id
    if model.chat_template is not None:
        writer.add_chat_template(model.chat_template["source"])
        writer.add_eot_token_id(turn_end(model))
        eos = eos_of_template(vocabulary, model.chat_template.get("eos_token"), tokenizer)
        bos = tokenizer.special_ids.get(model.chat_template.get("bos_token", ""), bos)
    writer.add_eos_token_id(eos)
    writer.add_bos_token_id(bos)
    writer.add_add_bos_token(begins_with_separator(model))


def modelfile(model: StoredModel, file_name: str) -> str:
    """The content of a Modelfile, from which Ollama makes a model that continues texts, or one that answers. Ollama
    has templates of its own kind; it recognises those of well-known models by the one in the file."""
    template = model.chat_template
    if template is None:
        stated = 'TEMPLATE """{{ .Prompt }}"""\n'
    elif template["source"] == OWN:
        mark = template["eos_token"]
        first = "" if begins_with_separator(model) else mark  # Ollama puts it there
        messages = "{{ range $n, $m := .Messages }}{{ if $n }}" + mark + "{{ else }}" + first
        stated = f'''TEMPLATE """{messages}{{{{ end }}}}{{{{ $m.Role }}}}
{{{{ $m.Content }}}}{{{{ end }}}}{mark}assistant
"""
'''
    else:
        stated = ""
    return f'''FROM ./{file_name}
{stated}PARAMETER temperature {SamplingConfig.temperature}
PARAMETER min_p {SamplingConfig.min_p}
PARAMETER num_ctx {model.config.seq_len}
PARAMETER stop "{separator_name(model.tokenizer)}"
'''
