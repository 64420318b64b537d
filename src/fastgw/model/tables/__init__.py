"""The tables of entities, one module per group; `entities.ENTITIES` gathers them."""
