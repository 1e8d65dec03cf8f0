"""The contract with Detectron2: these tests pass on the real one and on the stand-in."""
