# nginx as a node of the cluster: docker build -f examples/nginx.Dockerfile -t web .
# The binary is static, so it runs in any Linux image.
FROM nginx:alpine
COPY --from=localhost:5000/appserver /concertina /usr/local/bin/concertina
ENV CONCERTINA_STOP_SIGNAL=SIGQUIT CONCERTINA_ROLE=web CONCERTINA_PORT=80 CONCERTINA_CHECK=http:/
ENV CONCERTINA_SNAPSHOT=/run/concertina/snapshot
ENTRYPOINT ["/usr/local/bin/concertina", "sidecar", "--"]
CMD ["nginx", "-g", "daemon off;"]
