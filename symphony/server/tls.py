"""Make the TLS side of a listening socket: TLS 1.2 or newer, a certificate that can be renewed while it serves."""

from __future__ import annotations

import ssl
from pathlib import Path

from symphony.errors import ConfigError


class Certificate:
    """A certificate chain with its private key, in PEM files, and the context that shows it.

    `client_ca`: PEM file of who must have signed clients' certificates; None asks clients for none. Raise ConfigError
    for files that cannot be used. No message shows what is in them.
    """

    def __init__(self, chain: Path, key: Path, client_ca: Path | None = None) -> None:
        self.chain = chain
        self.key = key
        self.client_ca = client_ca
        self.context = self._make_context()

    @property
    def files(self) -> tuple[Path, ...]:
        """Return what `renew` reads."""
        return (self.chain, self.key)

    def renew(self) -> None:
        """Show what is in the files now to those who connect from now on; raise ConfigError, changing nothing, if it
        cannot be used.
        """
        self._make_context()  # a context that takes a chain, and then refuses the key, has lost the old ones
        self._load_into(self.context)

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        self._load_into(context)
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"tls_client_ca {self.client_ca} cannot be used: {_described(error)}; give a PEM file of "
                    "certificates"
                ) from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _load_into(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self.chain, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"tls_cert {self.chain} with tls_key {self.key} cannot be used: {_described(error)}; give PEM files of "
                "a chain and of the key to its first certificate, without a password"
            ) from None


def _no_password() -> str:
    # Without this OpenSSL would ask at the terminal, and the node wait for ever.
    raise ValueError("the key has a password")


def _described(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
