"""A predictor behind HTTP: a server for programs and a page for people.

`server` runs the application of `app`, which reads requests, lets `batcher` detect in batches and
keeps encoded names in `vocabularies`. `page` is a web page of gradio.
"""
