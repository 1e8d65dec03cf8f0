"""Tools that make the data and the files of the model of photographs."""
