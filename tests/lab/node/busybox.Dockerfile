# Small tools: for local-path-provisioner's helper pods, and for tests.
ARG NODE
FROM ${NODE} AS node
RUN mkdir -p /image/bin /image/tmp /image/etc /image/root && chmod 1777 /image/tmp \
 && cp /bin/busybox /image/bin/ && chroot /image /bin/busybox --install -s /bin \
 && echo root:x:0:0:root:/root:/bin/sh > /image/etc/passwd && echo root:x:0: > /image/etc/group
FROM scratch
COPY --from=node /image /
ENV PATH=/bin
CMD ["sh"]
