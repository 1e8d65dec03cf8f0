"""Make detclip2/resources/emoji_categories.json: the names and the fixed split of EmojiScenes.

The result is committed, and the library reads it. Run this script again only for another edition
of the world. It needs packages that the library does not need:

    pip install emoji fonttools
    npm pack emojibase-data && tar xzf emojibase-data-*.tgz     # MIT; for the groups of emoji
    python projects/EmojiScenes/tools/make_emoji_categories.py --emojibase package/en

Names come from the `emoji` package (Unicode CLDR), better ones and synonyms from
emoji_names.txt beside this file, written by hand.
"""

import argparse
import json
import re
from pathlib import Path

import cv2
import emoji
import numpy as np
from fontTools.ttLib import TTFont

from detclip2.data.emojiscenes.sprites import draw_glyph, find_emoji_font

TOOLS = Path(__file__).resolve().parent
OUTPUT = TOOLS.parents[2] / "detclip2" / "resources" / "emoji_categories.json"
# Chosen so that "red apple" (base) and "fire engine" (novel), the examples of the
# documentation, are in the smallest world, of forty.
SEED = 49

# Text and signs, not things.
DROPPED_GROUPS = {
    *("alphanum", "transport-sign", "zodiac", "arrow", "keycap", "av-symbol", "other-symbol"),
    *("math", "punctuation", "gender", "currency", "geometric", "subdivision-flag"),
    *("skin-tone", "hair-style"),
}

# They come first, so that small worlds have familiar, distinct things.
FAMILIAR = """
    red apple; fire engine; dog; bicycle; open umbrella; guitar; slice of pizza; leafy tree;
    airplane; owl; house; key; cat; sailboat; banana; anchor; chair; rocket; cactus; camera;
    cow; wristwatch; hammer; mushroom; t-shirt; frog; open book; bus; jack-o-lantern; penguin;
    soccer ball; hamburger; butterfly; teapot; light bulb; crown; turtle; sunflower; tractor;
    scissors; fish; carrot; top hat; baby; robot; drum; alarm clock; balloon; snowman;
    telephone; bed; tent; lion; strawberry; bell; trophy; backpack; helicopter; castle;
    doughnut; elephant; rainbow; horse; watermelon"""

# Of every eleven categories in the order, eight are base, two novel, one unseen: every prefix of
# the order is a world with the same mix. Which of the eleven is which is left to chance.
BLOCK = ["base"] * 8 + ["novel"] * 2 + ["unseen"]

# Mean absolute difference of two images of 24 x 24 pixels (RGB on grey, and alpha; of 255) below
# which they are the same to a detector: most faces that differ by an eyebrow go, colours stay.
NEAR_DUPLICATE = 4.2

MASS = """
    bacon; popcorn; sushi; butter; spaghetti; fondue; fog; dna; mate gourd; fire; sheet music;
    green tea; toilet paper; coral; lettuce; garlic; broccoli; splashing water"""
PLURAL = """
    chopsticks; scissors; glasses; sunglasses; goggles; jeans; shorts; socks; gloves; skis;
    briefs; french fries; pancakes; grapes; cherries; blueberries; peanuts; beans; maracas;
    houses; bricks; paw prints; footprints; fireworks; ballet shoes; shopping bags; prayer
    beads; chains; crossed swords; bubbles; green leaves; fallen leaves; musical notes;
    theatre masks; japanese dolls; wrestlers; bowling pins; headphones; eyes; lungs; clapping
    hands; folded hands; raising hands; open hands; palms up together; heart hands; thumbs up;
    thumbs down; file dividers; crossed fingers; pinched fingers; nail polish; clinking beer
    mugs; champagne glasses; film strip; sparkles; flying money; linked paperclips; piano
    keys; crossed flags; control knobs; bookmark tabs; two hearts; revolving hearts; hugging
    people; women with bunny ears; two women holding hands; two men holding hands; two bust
    silhouettes"""

COLORS = {  # name -> hue range of OpenCV (0..180); brown is dark orange
    "red": (0, 6), "orange": (9, 19), "yellow": (21, 33), "green": (38, 84), "blue": (92, 125),
    "purple": (130, 152), "pink": (155, 172),
}  # fmt: skip
BROWN = (2, 20)


def words(text: str) -> set[str]:
    """The names in one of the lists above."""
    return {" ".join(item.split()) for item in text.split(";")}


def read_names(path: Path) -> dict[str, list[str]]:
    """CLDR name -> name and synonyms; an empty list for skipped ones."""
    names: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            old, _, new = line.partition("=")
            if old.strip() in names:
                raise SystemExit(f"{path}: {old.strip()!r} stands there twice")
            names[old.strip()] = [name.strip() for name in new.split(",") if name.strip()]
    return names


def dominant_color(glyph: np.ndarray) -> str | None:
    """The colour word of most of the glyph's opaque pixels, or None."""
    hsv = cv2.cvtColor(np.ascontiguousarray(glyph[..., :3]), cv2.COLOR_RGB2HSV)
    hue, saturation, value = hsv[glyph[..., 3] > 200].astype(int).T
    vivid = (saturation > 110) & (value > 90)
    dark = (saturation > 60) & (value < 190)
    if np.mean((hue >= BROWN[0]) & (hue <= BROWN[1]) & dark) > 0.6:
        return "brown"
    for name, (low, high) in COLORS.items():
        inside = (hue >= low) & (hue <= high) | ((name == "red") & (hue >= 176))
        if np.mean(inside & vivid) > 0.7:
            return name
    if np.mean((saturation < 30) & (value > 200)) > 0.7:
        return "white"
    return "black" if np.mean(value < 75) > 0.7 else None


def signature(glyph: np.ndarray) -> np.ndarray:
    """The image that is compared to find near-duplicates, (24, 24, 4)."""
    alpha = glyph[..., 3:] / 255.0
    on_grey = np.concatenate([glyph[..., :3] * alpha + 128 * (1 - alpha), 255 * alpha], axis=-1)
    return cv2.resize(on_grey, (24, 24), interpolation=cv2.INTER_AREA).astype(np.float32)


def collect(font: Path, emojibase: Path) -> list[dict]:
    """All candidates in CLDR order: one code point, drawn by the font, a thing with a name."""
    subgroups = json.loads((emojibase.parent / "meta" / "groups.json").read_text())["subgroups"]
    entries = json.loads((emojibase / "data.json").read_text(encoding="utf-8"))
    entries.sort(key=lambda entry: entry.get("order", 0))
    by_text = {text.replace("\ufe0f", ""): data for text, data in emoji.EMOJI_DATA.items()}
    drawn = TTFont(str(font), lazy=True).getBestCmap()
    renamed = read_names(TOOLS / "emoji_names.txt")
    found: list[dict] = []
    for entry in entries:
        text = entry["emoji"].replace("\ufe0f", "").replace("\ufe0e", "")
        group = subgroups.get(str(entry.get("subgroup")))
        if len(text) != 1 or ord(text) not in drawn or text not in by_text or group is None:
            continue
        name = by_text[text]["en"].strip(":").replace("_", " ").replace("\u2019", "'").lower()
        name = name.replace("ñ", "n")
        clock = re.search(r"(o'clock|-thirty)$", name) and name not in renamed
        if group in DROPPED_GROUPS or clock or renamed.get(name) == []:
            renamed.pop(name, None)
            continue
        name, *synonyms = renamed.pop(name, [name])
        found.append({"name": name, "synonyms": synonyms, "emoji": text, "group": group})
    if unused := [name for name, value in renamed.items() if value]:
        raise SystemExit(f"emoji_names.txt renames what is not there: {unused}")
    return found


def without_near_duplicates(found: list[dict], font: Path) -> list[dict]:
    """The items without those that look like an earlier one or its mirror image."""
    kept: list[dict] = []
    signatures = np.zeros((0, 24, 24, 4), np.float32)
    for item in found:
        glyph = draw_glyph(item["emoji"], font)
        here = signature(glyph)
        closest = np.inf
        for image in (here, here[:, ::-1]):
            distances = np.abs(signatures - image).mean(axis=(1, 2, 3))
            closest = min(closest, distances.min(initial=np.inf))
        if closest >= NEAR_DUPLICATE:
            kept.append({**item, "color": dominant_color(glyph)})
            signatures = np.concatenate([signatures, here[None]])
    return kept


def drop_clashing_synonyms(items: list[dict]) -> None:
    """A name or synonym means one category only."""
    taken = {item["name"] for item in items}
    if len(taken) != len(items):
        names = [item["name"] for item in items]
        raise SystemExit(f"names twice: {sorted({n for n in names if names.count(n) > 1})}")
    for item in items:
        item["synonyms"] = [name for name in item["synonyms"] if name not in taken]
        taken.update(item["synonyms"])


def put_in_order(items: list[dict], rng: np.random.Generator) -> list[dict]:
    """Familiar things first, then each group spread evenly, so that every prefix is varied."""
    familiar = [item for item in items if item["name"] in words(FAMILIAR)]
    order = [familiar[i] for i in rng.permutation(len(familiar))]
    groups: dict[str, list[dict]] = {}
    for item in items:
        if item not in familiar:
            groups.setdefault(item["group"], []).append(item)
    placed: list[tuple[float, dict]] = []
    for _, members in sorted(groups.items()):
        offset = rng.random()
        for place, i in enumerate(rng.permutation(len(members))):
            placed.append(((place + offset) / len(members), members[i]))
    return order + [item for _, item in sorted(placed, key=lambda pair: pair[0])]


def assign_splits(order: list[dict], rng: np.random.Generator) -> None:
    """Give every item its split and frequency, block by block."""
    for start in range(0, len(order), len(BLOCK)):
        block = order[start : start + len(BLOCK)]
        splits = [BLOCK[i] for i in rng.permutation(len(BLOCK))][: len(block)]
        # LVIS's names for frequency: novel is r, so that its APr reads as AP of the novel.
        base_frequency = [["f", "c"][i % 2] for i in rng.permutation(len(BLOCK))]
        for item, split, frequency in zip(block, splits, base_frequency, strict=False):
            item["split"] = split
            item["frequency"] = frequency if split == "base" else "r"


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emojibase", type=Path, required=True, help="folder with data.json")
    parser.add_argument("--font", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    font = find_emoji_font(args.font)
    items = without_near_duplicates(collect(font, args.emojibase), font)
    drop_clashing_synonyms(items)
    rng = np.random.default_rng(args.seed)
    order = put_in_order(items, rng)
    assign_splits(order, rng)
    plural, mass = words(PLURAL), words(MASS)
    if lost := (plural | mass | words(FAMILIAR)) - {item["name"] for item in items}:
        raise SystemExit(f"listed in this script, but no category: {sorted(lost)}")
    lines = []
    for number, item in enumerate(order, start=1):
        name = item["name"]
        count = "plural" if name in plural else "mass" if name in mass else "singular"
        lines.append(json.dumps({"id": number, **item, "number": count}, ensure_ascii=False))
    head = {
        "about": "Categories of EmojiScenes in the order of its worlds; "
        "made by projects/EmojiScenes/tools/make_emoji_categories.py",
        "font": TTFont(str(font), lazy=True)["name"].getDebugName(5),
        "emoji": emoji.__version__,
    }
    body = ",\n".join(lines)
    OUTPUT.write_text(
        json.dumps(head)[:-1] + ', "categories": [\n' + body + "\n]}\n", encoding="utf-8"
    )
    print(f"{OUTPUT}: {len(order)} categories of {len({item['group'] for item in order})} groups")


if __name__ == "__main__":
    main()
