# What applications in the e2e tests run in: Python with the client libraries of constraints.txt.
ARG ENGINE
FROM ${ENGINE}
COPY libraries /opt/libraries
ENV PYTHONPATH=/opt/libraries
ENTRYPOINT []
CMD ["python"]
