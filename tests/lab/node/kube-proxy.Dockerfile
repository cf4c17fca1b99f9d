# kube-proxy, and `nft`, which it calls (mode nftables), with its libraries.
ARG NODE
FROM ${NODE} AS node
RUN mkdir -p /image/usr/sbin && cp /usr/sbin/nft /image/usr/sbin/ \
 && ldd /usr/sbin/nft | grep -o '/[^ ]*' | while read -r library; do \
      mkdir -p "/image$(dirname "$library")" && cp -L "$library" "/image$library"; done
FROM scratch
COPY --from=node /image /
COPY kube-proxy /usr/local/bin/kube-proxy
ENV PATH=/usr/local/bin:/usr/sbin
