# detclip2 serve on a CPU, see docs/serve.md:
#     docker build --tag detclip2 .
#     docker run --rm --publish 8000:8000 detclip2
FROM python:3.12-slim-bookworm AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY pyproject.toml setup.cfg setup.py README.md LICENSE MANIFEST.in requirements.lock ./
COPY compat compat
COPY configs configs
COPY projects projects
COPY detclip2 detclip2
# uv knows where PyTorch keeps its wheels for the CPU, which lack 3 GB of CUDA. It reads from
# pyproject.toml what is not installed (opencv-python, which needs graphics libraries).
RUN uv venv /opt/detclip2 \
    && uv pip install --no-cache --compile-bytecode --python /opt/detclip2/bin/python \
        --torch-backend cpu --constraints requirements.lock --build-constraints requirements.lock \
        '.[serve]'

FROM python:3.12-slim-bookworm
COPY --from=build /opt/detclip2 /opt/detclip2
ENV PATH=/opt/detclip2/bin:$PATH HF_HUB_OFFLINE=1
RUN useradd --create-home --uid 1000 detclip2
USER 1000
EXPOSE 8000
HEALTHCHECK --start-period=60s --timeout=5s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["detclip2"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
