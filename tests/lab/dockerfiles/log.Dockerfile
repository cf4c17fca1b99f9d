# The log service's server, as in its official image: just the program.
FROM scratch
COPY nats-server /nats-server
ENV PATH=/
USER 10001:10001
ENTRYPOINT ["/nats-server"]
