"""The shell tasks in the words of a cluster's configuration: YAML, systemd units, nginx and `.env` files.

Every setting names the machine that does a job, so that any value fits any key. What is commented out is
stale.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from agito.envs.shell.words import TERSE, Demand, Words, only


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _like(terse: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """The words in the alphabetical order of the terse ones, so that files are listed and searched alike."""
    by_rank = dict(zip(sorted(terse), sorted(words), strict=True))
    return tuple(by_rank[each] for each in terse)


_FOLDERS = _like(
    TERSE.names,
    _words(
        "nginx postgres redis rabbitmq app worker scheduler gateway monitoring mailer backup search "
        "billing auth cdn deploy"
    ),
)
_FILES = _like(
    TERSE.names,
    _words(
        "settings.yaml upstreams.conf worker.service production.env cluster.yaml proxy.conf sync.service "
        "shared.env routes.yaml locations.conf agent.service defaults.env alerts.yaml mirrors.conf "
        "cron.service local.env"
    ),
)
_KEYS = _words(
    "primary_db replica_db session_cache page_cache mail_relay log_sink metrics_store auth_server "
    "token_issuer job_queue event_bus search_node index_builder image_resizer file_store "
    "backup_target dns_resolver time_server proxy_upstream load_balancer api_gateway billing_host "
    "invoice_printer report_runner audit_trail secret_vault config_source build_agent artifact_repo "
    "chat_bridge push_sender sms_sender map_tiles video_encoder health_probe admin_console"
)
_MACHINES = _words(
    "oslo bergen malmo aarhus turku tampere riga tallinn vilnius gdansk krakow prague brno vienna "
    "graz salzburg zurich geneva lausanne milan turin genoa verona padua naples palermo athens patras "
    "sofia varna bucharest cluj zagreb rijeka ljubljana maribor budapest szeged munich bremen leipzig "
    "dresden essen ghent bruges utrecht leiden delft lyon nantes lille rennes porto braga lisbon faro "
    "seville malaga bilbao toledo dublin galway cork leeds bristol oxford glasgow dundee"
)
# By a file's ending: what stands before the key, after it, and after the value, and the file's first line.
_FORMS = {
    ".yaml": ("", ": ", "", "---"),
    ".service": ("Environment=", "=", "", "[Service]"),
    ".conf": ("set $", " ", ";", "# included by nginx.conf"),
}
_PLAIN = ("", "=", "", "")  # .env, and whatever else
_LINE = re.compile(r"(?:# )?(?:Environment=|set \$)?(\w+)(?:=|: | )([^\s;]+);?")
_DEMAND = re.compile(r"(?:(\S+): )?(\w+) must be (the same as )?(\S+)")
_FORM = r"""case $f in *.yaml) p="$key: " e=;; *.service) p="Environment=$key=" e=;;
*.conf) p="set \$$key " e=\;;; *) p="$key=" e=;; esac; """
_MEND = (
    r"""each() { for f in * */*; do [ -f $f ] || continue; FORM
$1; done; }
tell() { while IFS= read -r l; do case $l in "$p"*"$e") l=${l#"$p"}; echo "${l%"$e"}";; esac; done <$f; }
put() { t=$(while IFS= read -r l; do
case $l in "$p"*"$e") l=$p$v$e;; esac; echo "$l"; done <$f); echo "$t" >$f; }
while o=$(bash .check); case $o in *" must be "*) ;; *) false;; esac; do set -- ${o#*: }; v=$4
[ $# = 7 ] && { key=$7; v=$(each tell); }; key=$1; each put; done"""
).replace("FORM", _FORM)

_FILES_SAY = (
    "The working directory holds the configuration of a small cluster. Every setting names the machine that "
    "does a job, on one line, written as its file has it: `NAME: MACHINE` in YAML files, "
    "`Environment=NAME=MACHINE` in systemd units, `set $NAME MACHINE;` in nginx's .conf files, "
    "`NAME=MACHINE` in .env files. "
)
_LINES_SAY = (
    "A line that is commented out with `#` is out of date and counts for nothing. A value such as "
    "`${{other}}` means: the same machine as the setting `other`. Commands sometimes time out: run them "
    "again. A common tool can be missing: do it another way. "
)
_PROSE = {
    "find": f"{_FILES_SAY}Which machine does `{{key}}` name? {_LINES_SAY}When you know, call `submit` with "
    "`NAME=MACHINE`: the setting that names the machine itself, not another setting, and that machine. "
    "Submit nothing else beside it.",
    "repair": f"{_FILES_SAY}Some settings are wrong. The script `./.check` prints the first one, or `ok` and "
    "a code word when all are right. Change the wrong lines in their files, and nothing else, until it "
    f"prints `ok`; no setting may stand there twice. {_LINES_SAY}At the end call `submit` with the code word "
    "alone.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Realistic(Words):
    """How a file is written follows from its ending."""

    def path(self, *names: str) -> str:
        *folders, last = (self.names.index(name) for name in names)
        return "/".join([*(_FOLDERS[at] for at in folders), _FILES[last]])

    def start(self, path: str, key: str) -> str:
        before, after, _, _ = _form(path)
        return f"{before}{key}{after}"

    def line(self, path: str, key: str, value: str) -> str:
        return f"{self.start(path, key)}{value}{_form(path)[2]}"

    def stale(self, line: str) -> str:
        return f"# {line}"

    def pointer(self, key: str) -> str:
        return f"${{{key}}}"

    def text(self, path: str, lines: Sequence[str]) -> str:
        head = _form(path)[3]
        return "".join(f"{line}\n" for line in ([head] if head else []) + [*lines])

    def complaint(self, demand: Demand) -> str:
        path, key, value = demand
        other = self.target(value)
        return (
            (f"{path}: " if path else "") + f"{key} must be " + (f"the same as {other}" if other else value)
        )

    def matcher(self) -> tuple[str, str]:
        return _FORM, '"$p"*"$e") w=${l#"$p"}; w=${w%"$e"};'

    def demand(self, complaint: str) -> Demand:
        found = _DEMAND.fullmatch(complaint.strip())
        if found is None:
            return "", "", ""
        path, key, is_same, value = found.groups()
        return path or "", key, self.pointer(value) if is_same else value

    def target(self, value: str) -> str | None:
        return value[2:-1] if value.startswith("${") else None

    def value(self, line: str, key: str) -> str | None:
        found = _LINE.fullmatch(line)
        return found[2] if found and found[1] == key else None

    def grep(self, flags: str, key: str, *, live: bool) -> str:
        return f"grep -{flags}E '{_pattern(key, live=live)}' *"

    def sed(self, key: str, files: str, *, live: bool) -> str:
        return f"sed -nE '/{_pattern(key, live=live)}/p' {files}"

    def replace(self, path: str, key: str, value: str) -> str:
        return f"sed -i 's/^{self.start(path, key)}.*/{self.line(path, key, value)}/' {path}"

    def rebuild(self, path: str, key: str, value: str) -> str:
        line = self.line(path, key, value)
        return f"grep -v '^{self.start(path, key)}' {path} >t; echo '{line}' >>t; mv t {path}"

    @property
    def mend(self) -> str:
        return _MEND


def _form(path: str) -> tuple[str, str, str, str]:
    return _FORMS.get(PurePosixPath(path).suffix, _PLAIN)


def _pattern(key: str, *, live: bool) -> str:
    """An extended regular expression."""
    return (r"^(Environment=|set \$)?" if live else r"\b") + f"{key}(=|: | )"


REALISTIC = Realistic(
    names=_FILES,  # the folder of the same number goes by this name too
    keys=_KEYS,
    values=_MACHINES,
    only=only(_KEYS),
    prose=_PROSE,
)
