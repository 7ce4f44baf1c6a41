# Dockerfile - one image for each role: docker build --target ROLE .   (compose.yaml builds them all)
# Roles: broker gateway preprocess vit abstractor decoder redis, and tyto, the command (import, synth, run, doctor).
# Everything is configured by TYTO_* variables (docs/operating.md).

FROM debian:bookworm-slim AS build
WORKDIR /src
COPY packages.txt tools/setup /setup/tools/
RUN mv /setup/tools/packages.txt /setup/ && sh /setup/tools/setup && rm -rf /var/lib/apt/lists/*
COPY . .
RUN make -s -j"$(nproc)" && make -s install DESTDIR=/out PREFIX=/usr

# What the programs are linked to; OpenBLAS is opened when TYTO_BLAS=openblas.
FROM debian:bookworm-slim AS runtime
RUN apt-get update && apt-get install -y --no-install-recommends \
        ca-certificates libcurl4 libedit2 libevent-2.1-7 libhiredis0.14 libjansson4 libjpeg62-turbo libopenblas0-pthread libpng16-16 \
        libprotobuf-c1 libssl3 libwebp7 libwebpdemux2 libavformat59 libswscale6 libxxhash0 libzmq5 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin tyto \
    && install -d -o tyto -g tyto -m 0700 /run/tyto
USER tyto

FROM runtime AS broker
COPY --from=build /out/usr/bin/tyto-broker /usr/bin/
ENTRYPOINT ["/usr/bin/tyto-broker"]

FROM runtime AS preprocess
COPY --from=build /out/usr/bin/tyto-preprocess /usr/bin/
ENTRYPOINT ["/usr/bin/tyto-preprocess"]

FROM runtime AS vit
COPY --from=build /out/usr/bin/tyto-vit /usr/bin/
ENTRYPOINT ["/usr/bin/tyto-vit"]

FROM runtime AS abstractor
COPY --from=build /out/usr/bin/tyto-abstractor /usr/bin/
ENTRYPOINT ["/usr/bin/tyto-abstractor"]

FROM runtime AS decoder
COPY --from=build /out/usr/bin/tyto-decoder /usr/bin/
ENTRYPOINT ["/usr/bin/tyto-decoder"]

# With `tyto` for the health check.
FROM runtime AS gateway
COPY --from=build /out/usr/bin/tyto-gateway /out/usr/bin/tyto /usr/bin/
EXPOSE 8080
ENTRYPOINT ["/usr/bin/tyto-gateway"]

# Debian's Redis, under the same user: the sockets are for that one alone.
FROM runtime AS redis
USER root
RUN apt-get update && apt-get install -y --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/* && install -d -o tyto -g tyto -m 0700 /data
USER tyto
VOLUME /data
ENTRYPOINT ["/usr/bin/redis-server", "--port", "0", "--unixsocketperm", "600", "--dir", "/data", "--save", ""]

# Last: what `docker build .` makes.
FROM runtime AS tyto
COPY --from=build /out/usr/bin/ /usr/bin/
COPY --from=build /out/usr/share/tyto/ /usr/share/tyto/
ENTRYPOINT ["/usr/bin/tyto"]
