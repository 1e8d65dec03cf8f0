"""Lazy configs, yacs configs, and the objects built from them."""

import collections
import itertools
from dataclasses import dataclass

import detectron2
import pytest
from detectron2.config import CfgNode, LazyCall, LazyConfig, configurable, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from omegaconf import DictConfig, ListConfig

L = LazyCall


class Pair:
    def __init__(self, left, right=None):
        self.left, self.right = left, right

    def __call__(self, value):
        return self.left + value


@dataclass
class Options:
    size: int = 3
    names: tuple = ()


@pytest.fixture
def tree(tmp_path):
    """Config files that import each other."""
    (tmp_path / "parts").mkdir()
    files = {
        "parts/base.py": "options = {'a': 1, 'b': [1, 2]}\nname = 'base'\n",
        "parts/other.py": "from .base import options, name\nassert options.a == 1\n",
        "main.py": (
            "import collections\n"
            "from detectron2.config import LazyCall as L\n"
            "from .parts.base import options, name\n"
            "options.a = 2\n"
            "from .parts.other import options as other_options\n"
            "from .parts.other import name as other_name\n"
            "call = L(collections.Counter)(x=name, y='${.x}')\n"
            "_private = {'c': 1}\n"
            "plain = 3\n"
        ),
        "relative.py": (
            "from detectron2.config import LazyConfig\n"
            "one = LazyConfig.load_rel('parts/base.py', 'options')\n"
            "both = LazyConfig.load_rel('parts/base.py', ('options', 'name'))\n"
            "name = both[1]\n"
        ),
        "folder.py": "from . import parts\n",
        "missing.py": "from .parts.nothing import x\n",
        "broken.py": "x = (\n",
        "package.py": "from .parts import base\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


# LazyConfig.load


def test_load_returns_all_public_configs(tree):
    cfg = LazyConfig.load(str(tree / "main.py"))
    assert isinstance(cfg, DictConfig)
    assert set(cfg) == {"options", "other_options", "call"}
    assert cfg.call._target_ is collections.Counter
    assert cfg.call.y == "base"


def test_each_import_is_independent(tree):
    cfg = LazyConfig.load(str(tree / "main.py"))
    assert (cfg.options.a, cfg.other_options.a) == (2, 1)
    cfg.options.b.append(3)
    assert LazyConfig.load(str(tree / "main.py")).options.b == [1, 2]


def test_load_by_key(tree):
    file = str(tree / "parts" / "base.py")
    options = LazyConfig.load(file, "options")
    assert isinstance(options, DictConfig)
    assert LazyConfig.load(file, ("name", "options")) == ("base", options)
    with pytest.raises(KeyError):
        LazyConfig.load(file, "nothing")


def test_load_rel_is_relative_to_the_calling_file(tree):
    cfg = LazyConfig.load(str(tree / "relative.py"))
    assert cfg == {"one": {"a": 1, "b": [1, 2]}}


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        ("folder.py", ImportError, "relative import"),
        ("missing.py", ImportError, "not exist"),
        ("package.py", ImportError, "relative import"),
        ("broken.py", SyntaxError, "syntax error"),
        ("nothing.py", FileNotFoundError, "nothing.py"),
        ("main.txt", ValueError, "python or yaml"),
    ],
)
def test_load_errors_name_the_problem(tree, file, error, message):
    with pytest.raises(error, match=message):
        LazyConfig.load(str(tree / file))


def test_imports_are_unchanged_after_a_load(tree):
    with pytest.raises(ImportError):
        LazyConfig.load(str(tree / "missing.py"))
    import json  # noqa: F401  (__import__ has been left as it was)

    with pytest.raises(ImportError):
        from . import nothing_of_that_name  # noqa: F401


# LazyConfig.save


def test_save_and_load(tree, tmp_path):
    cfg = LazyConfig.load(str(tree / "main.py"))
    file = str(tmp_path / "saved.yaml")
    LazyConfig.save(cfg, file)
    again = LazyConfig.load(file)
    assert again.call._target_ == "collections.Counter"
    assert cfg.call._target_ is collections.Counter  # the config itself is not changed
    assert again.call.y == "base"
    again.call.x = "changed"
    assert again.call.y == "changed"  # still an interpolation
    assert again.options == cfg.options


def test_save_values_that_yaml_cannot_hold(tmp_path):
    file = tmp_path / "saved.yaml"
    LazyConfig.save(DictConfig({"f": lambda: 1}, flags={"allow_objects": True}), str(file))
    assert file.exists()
    assert (tmp_path / "saved.yaml.pkl").exists()


# LazyConfig.apply_overrides


def test_overrides():
    cfg = DictConfig({"model": {"depth": 1, "name": "x", "call": L(Pair)(left=1)}, "lr": 0.1})
    changed = LazyConfig.apply_overrides(
        cfg,
        ["model.depth=2", "lr=1e-3", 'model.name="5"', "model.call.left=[1,2]", "new.key.deep=a"],
    )
    assert changed is cfg
    assert cfg.model == {
        "depth": 2,
        "name": "5",
        "call": {"left": [1, 2], "_target_": Pair},
    }
    assert cfg.lr == 1e-3
    assert cfg.new.key.deep == "a"


def test_overrides_merge_dicts():
    cfg = DictConfig({"model": {"depth": 1, "width": 2}})
    LazyConfig.apply_overrides(cfg, ["model={depth: 3}"])
    assert cfg.model == {"depth": 3, "width": 2}


def test_override_below_a_value_is_an_error():
    cfg = DictConfig({"model": {"depth": 1}})
    with pytest.raises(KeyError, match=r"model\.depth"):
        LazyConfig.apply_overrides(cfg, ["model.depth.deeper=1"])


def test_deletion_is_an_error():
    with pytest.raises(NotImplementedError):
        LazyConfig.apply_overrides(DictConfig({"a": 1}), ["~a"])


# LazyConfig.to_py


def test_to_py():
    if "subset" not in detectron2.__version__:
        pytest.importorskip("black", reason="the real Detectron2 needs black for this")
    cfg = DictConfig(
        {
            "model": L(collections.Counter)(b=[1, "x"], a={"k": L(itertools.count)(start=1.5)}),
            "train": {"lr": 0.1, "names": ["a"]},
        },
        flags={"allow_objects": True},
    )
    text = LazyConfig.to_py(cfg, prefix="c.")
    squeezed = text.replace("'", '"').replace(" ", "").replace("\n", "").replace(",)", ")")
    assert squeezed == (
        'c.model=collections.Counter(a={"k":itertools.count(start=1.5)},b=[1,"x"])'
        'c.train.lr=0.1c.train.names=["a"]'
    )


# instantiate


def test_instantiate_from_the_inside_out():
    cfg = L(Pair)(left=L(Pair)(left=1, right="${..right}"), right=[1, L(Pair)(left=2)])
    built = instantiate(cfg)
    assert isinstance(built, Pair)
    assert isinstance(built.right, ListConfig)
    assert built.right[1].left == 2
    assert built.left.left == 1


def test_instantiate_by_name():
    assert instantiate({"_target_": "collections.Counter", "a": 2}) == {"a": 2}
    with pytest.raises(ImportError):
        instantiate({"_target_": "collections.nothing"})


def test_instantiate_a_described_target():
    assert instantiate(L(L(Pair)(left=3))(value=4)) == 7


def test_instantiate_dataclasses():
    assert instantiate(L(ShapeSpec)(channels=3)) == ShapeSpec(channels=3)
    built = instantiate(L(Pair)(left=ShapeSpec(channels=5)))
    assert built.left == ShapeSpec(channels=5)
    assert isinstance(built.left, ShapeSpec)


@pytest.mark.parametrize("value", [5, "text", None, {"a": 1}, Pair(1)])
def test_instantiate_keeps_other_values(value):
    assert instantiate(value) is value


def test_instantiate_lists():
    built = instantiate([1, L(Pair)(left=1)])
    assert type(built) is list
    assert isinstance(built[1], Pair)


def test_instantiate_with_wrong_arguments():
    with pytest.raises(TypeError, match="nothing"):
        instantiate(L(Pair)(nothing=1))


def test_lazy_call_takes_callables_and_their_descriptions_only():
    for target in (Pair, "collections.Counter", L(Pair)(left=1)):
        assert "_target_" in L(target)()
    with pytest.raises(TypeError):
        L(3)


def test_an_infinite_iterator_is_not_run():
    assert L(itertools.count)(start=3).start == 3


# CfgNode


def write(tmp_path, text, name="config.yaml"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_get_cfg_returns_copies():
    one, other = get_cfg(), get_cfg()
    one.MODEL.WEIGHTS = "x"
    one.DATASETS.TRAIN = ("a",)
    assert other.MODEL.WEIGHTS == ""
    assert other.DATASETS.TRAIN == ()
    assert isinstance(one, CfgNode)


def test_defaults_that_users_rely_on():
    cfg = get_cfg()
    assert cfg.VERSION == 2
    assert cfg.INPUT.FORMAT == "BGR"
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)
    assert cfg.SOLVER.STEPS == (30000,)
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "value"
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 100
    assert cfg.OUTPUT_DIR == "./output"


def test_merge_from_file_with_base(tmp_path):
    write(tmp_path, "SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\nVERSION: 2\n", "base.yaml")
    file = write(tmp_path, "_BASE_: base.yaml\nSOLVER: {MAX_ITER: 9}\nVERSION: 2\n")
    cfg = get_cfg()
    cfg.merge_from_file(file)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.5, 9)


def test_merge_from_list():
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.STEPS", "(1, 2)", "DATASETS.TRAIN", "('a',)", "SEED", "3"])
    assert cfg.SOLVER.STEPS == (1, 2)
    assert cfg.DATASETS.TRAIN == ("a",)
    assert cfg.SEED == 3


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("MODEL: {NO_SUCH_KEY: 1}\nVERSION: 2\n", KeyError),
        ("SOLVER: {MAX_ITER: many}\nVERSION: 2\n", ValueError),
        ("VERSION: 3\n", AssertionError),
    ],
)
def test_merge_of_a_wrong_file(tmp_path, text, error):
    with pytest.raises(error):
        get_cfg().merge_from_file(write(tmp_path, text))


def test_merge_of_a_missing_file(tmp_path):
    with pytest.raises(AssertionError, match="does not exist"):
        get_cfg().merge_from_file(str(tmp_path / "none.yaml"))


def test_keys_of_version_1_are_renamed(tmp_path):
    text = "MODEL: {WEIGHT: /w.pth}\nTEST: {DETECTIONS_PER_IMG: 3}\n"
    for version in ("", "VERSION: 1\n"):
        cfg = get_cfg()
        cfg.merge_from_file(write(tmp_path, text + version))
        assert cfg.MODEL.WEIGHTS == "/w.pth"
        assert cfg.TEST.DETECTIONS_PER_IMAGE == 3
        assert cfg.VERSION == 2


def test_frozen():
    cfg = get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SEED = 1


def test_dump_and_merge_are_inverse(tmp_path):
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR = 0.25
    other = get_cfg()
    other.merge_from_file(write(tmp_path, cfg.dump()))
    assert other.SOLVER == cfg.SOLVER
    assert other.INPUT == cfg.INPUT


# configurable


class Base:
    @configurable
    def __init__(self, a, b=2, *, c=3):
        """The documentation of Base."""
        self.values = (a, b, c)

    @classmethod
    def from_config(cls, cfg):
        return {"a": cfg.A, "b": cfg.B}


class Shaped(Base):
    @configurable
    def __init__(self, shape, a, **kwargs):
        super().__init__(a, **kwargs)
        self.shape = shape

    @classmethod
    def from_config(cls, cfg, shape):
        return {**super().from_config(cfg), "shape": shape}


class Forwarding(Shaped):
    @classmethod
    def from_config(cls, cfg, shape, **kwargs):
        return {**super().from_config(cfg, shape), **kwargs}


@configurable(from_config=lambda cfg, b: {"a": cfg.A, "b": b})
def function(a, b=2, c=3):
    return a, b, c


@pytest.fixture(params=[CfgNode, DictConfig])
def ab(request):
    return request.param({"A": 10, "B": 20})


def test_configurable_init(ab):
    assert Base(1).values == (1, 2, 3)
    assert Base(ab).values == (10, 20, 3)
    assert Base(cfg=ab).values == (10, 20, 3)
    assert Base(ab, b=5, c=6).values == (10, 5, 6)


def test_configurable_init_with_more_arguments(ab):
    for shaped in (Shaped, Forwarding):
        made = shaped(ab, "s", c=9)
        assert (made.shape, made.values) == ("s", (10, 20, 9))
        assert shaped(ab, shape="s").values == (10, 20, 3)
        with pytest.raises(TypeError):
            shaped(ab, "s", nothing=1)


def test_configurable_function(ab):
    assert function(1) == (1, 2, 3)
    assert function(ab, b=5) == (10, 5, 3)
    assert function(ab, 5, c=6) == (10, 5, 6)
    with pytest.raises(TypeError):
        function(ab)  # from_config needs b


def test_configurable_keeps_name_and_doc():
    assert Base.__init__.__doc__ == "The documentation of Base."
    assert function.__name__ == "function"
    assert callable(function.from_config)


def test_configurable_finds_mistakes():
    class NoFromConfig:
        @configurable
        def __init__(self, a):
            pass

    class NoClassmethod:
        @configurable
        def __init__(self, a):
            pass

        def from_config(self, cfg):
            pass

    class OtherName:
        @configurable
        def __init__(self, a):
            pass

        @classmethod
        def from_config(cls, config):
            return {}

    with pytest.raises(AttributeError, match="from_config"):
        NoFromConfig(1)
    with pytest.raises(TypeError, match="classmethod"):
        NoClassmethod(1)
    with pytest.raises(TypeError, match="first argument"):
        OtherName(get_cfg())
    with pytest.raises(AssertionError):
        configurable(lambda self: None)
