"""Calls that wait for something other than the database."""

from __future__ import annotations

import ast
import re

from .infer import Inference
from .text import spelled

_VERBS = r"(delete|get|head|options|patch|post|put|request|send|stream|ws_connect)"
_PATTERNS = (
    # HTTP
    rf"(requests|niquests)\.((api|sessions)\.)?({_VERBS}|(Session|session|AsyncSession)\(\)\.{_VERBS})",
    rf"httpx\.({_VERBS}|(Async)?Client\(\)\.{_VERBS})",
    rf"aiohttp\.(client\.)?(request|ClientSession\(\)\.{_VERBS})",
    r"urllib\.request\.(urlopen|urlretrieve|build_opener\(\)\.open)",
    r"urllib3\.request",
    r"urllib3\.((poolmanager|connectionpool)\.)?((Pool|Proxy)Manager|HTTPS?ConnectionPool)\(\)\.(request|urlopen)",
    r"http\.client\.HTTPS?Connection\(\)\.(connect|request|getresponse)",
    r"httplib2\.Http\(\)\.request",
    # Waiting
    r"(time|asyncio|gevent|eventlet|anyio|trio)\.sleep",
    # Other programs
    r"subprocess\.(run|call|check_call|check_output|getoutput|getstatusoutput|Popen|Popen\(\)\.(wait|communicate))",
    r"asyncio\.create_subprocess_(exec|shell)",
    r"os\.(system|popen|wait|waitpid|spawn\w+)",
    # Mail
    r"(smtplib|aiosmtplib)\.(SMTP|SMTP_SSL|LMTP)(\(\)\.(connect|login|sendmail|send_message|starttls|quit))?",
    r"aiosmtplib\.send",
    r"django\.core\.mail\.(message\.)?(send_mail|send_mass_mail|mail_admins|mail_managers)",
    r"django\.core\.mail\.(message\.)?Email(Message|MultiAlternatives)\(\)\.send",
    r"django\.core\.mail\.get_connection\(\)\.(send_messages|open)",
    # Sockets
    r"socket\.(create_connection|getaddrinfo|gethostbyname)",
    r"socket\.socket\(\)\.(accept|connect|connect_ex|recv\w*|send|sendall)",
    r"asyncio\.open_connection",
    r"(paramiko|asyncssh)\.(SSHClient\(\)\.(connect|exec_command)|connect)",
    r"ftplib\.FTP(_TLS)?(\(\)\.\w+)?",
    # Services
    r"(boto3|aioboto3)\.(session\.)?(Session\(\)\.)?(client|resource)\(\)\.(\w+(\(\))?\.)*(?P<boto>[a-z]\w*)",
    r"stripe\.(\w+\.)+(create|retrieve|modify|list|search|cancel|capture|confirm|pay|delete)",
    r"slack_sdk\.(web\.)?(Web|AsyncWeb)Client\(\)\.\w+",
    r"twilio\.rest\.Client\(\)\.(\w+(\(\))?\.)+(create|fetch|update|delete|list)",
    r"(openai|anthropic)\.(Async)?(OpenAI|Anthropic)\(\)\.(\w+\.)+(create|parse|generate|stream|retrieve)",
)
_SLOW = re.compile("|".join(f"({pattern})" for pattern in _PATTERNS))
# Computed by boto3 itself.
_LOCAL = {"can_paginate", "close", "generate_presigned_post", "generate_presigned_url", "get_paginator", "get_waiter"}


class Slow:
    def __init__(self, inference: Inference) -> None:
        self.inference = inference

    def call(self, node: ast.AST) -> str | None:
        """What is slow about this one node, as it is written; ``None`` if nothing is."""
        if not isinstance(node, ast.Call):
            return None
        for path in self.inference.refs(node.func):
            match = _SLOW.fullmatch(path)
            if match is not None and match["boto"] not in _LOCAL and not _no_wait(path, node):
                return spelled(node)
        # AbstractUser's; nobody else has a method of this name.
        if isinstance(node.func, ast.Attribute) and node.func.attr == "email_user":
            return spelled(node)
        return None


def _no_wait(path: str, call: ast.Call) -> bool:
    if path.endswith(".sleep"):
        return bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
    # Connects only if it is told to whom.
    return path.startswith("smtplib.") and path.endswith(("SMTP", "SMTP_SSL")) and not call.args and not call.keywords
