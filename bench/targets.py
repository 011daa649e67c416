"""What is measured and what it stands on: the fake upstream, nginx in front of it, antiphon in front of it."""

import os
import pwd
import shlex
import shutil
import sys
from pathlib import Path

from msgspec import Struct

from bench.service import BenchError, Service, free_port

ROOT = Path(__file__).resolve().parents[1]
SERVER = "{python} -m antiphon serve --host 127.0.0.1 --port {port} --upstream {upstream} --database {database}"
NGINX_MISSING = "nginx is not installed; on Debian: apt-get install nginx-light"

NGINX_CONF = """\
{user}worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 10000000;
    upstream fake {{
        server 127.0.0.1:{upstream_port};
        keepalive 1024;
        keepalive_requests 10000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://fake;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"""


def nginx_path() -> str:
    path = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise BenchError(NGINX_MISSING)
    return path


class Target(Struct, frozen=True):
    """One of the things that are compared, and the dialect it is asked in."""

    name: str
    dialect: str
    service: Service


class Bay:
    """Starts services in one temporary folder, all in front of one fake upstream."""

    def __init__(self, folder: Path, server: str) -> None:
        self._folder = folder
        self._server = server
        self.upstream_port = free_port()

    def upstream(self) -> Service:
        command = [sys.executable, "-m", "bench.upstream", "--port", str(self.upstream_port)]
        return Service("upstream", command, port=self.upstream_port, folder=ROOT, log_folder=self._folder)

    def nginx(self) -> Service:
        port = free_port()
        folder = self._folder / f"nginx-{port}"
        folder.mkdir()
        user = f"user {pwd.getpwuid(0).pw_name};\n" if os.geteuid() == 0 else ""
        conf = folder / "nginx.conf"
        conf.write_text(NGINX_CONF.format(user=user, folder=folder, port=port, upstream_port=self.upstream_port))
        command = [nginx_path(), "-p", str(folder), "-e", str(folder / "nginx-error.log"), "-c", str(conf)]
        return Service("nginx", command, port=port, folder=folder, log_folder=folder)

    def antiphon(self) -> Service:
        port = free_port()
        folder = self._folder / f"antiphon-{port}"
        folder.mkdir()
        upstream = f"http://127.0.0.1:{self.upstream_port}/v1"
        words = {"python": sys.executable, "port": port, "upstream": upstream, "database": folder / "antiphon.db"}
        command = [word.format(**words) for word in shlex.split(self._server)]
        return Service("antiphon", command, port=port, folder=folder, log_folder=folder)
