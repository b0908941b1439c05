"""Certificates for TLS and keys for node authentication, as docs/deployment.md and examples/deployment make them."""

import datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_LIFETIME = datetime.timedelta(days=2)


class Certificates(NamedTuple):
    """Files of a server with TLS."""

    authority: Path  # what clients trust
    server: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    """Make an authority and a server's certificate for this machine's loopback; PEM files in ``folder``."""
    authority_key, server_key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    authority = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A federation's own authority")])
    server = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "SuperLink")])
    authority_certificate = (
        _certificate(authority, authority, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
    server_certificate = (
        _certificate(server, authority, server_key)
        .add_extension(names, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    files = Certificates(folder / "ca.crt", folder / "server.pem", folder / "server.key")
    files.authority.write_bytes(authority_certificate.public_bytes(serialization.Encoding.PEM))
    files.server.write_bytes(server_certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(_private(server_key, serialization.PrivateFormat.PKCS8))
    return files


def make_key(folder: Path, name: str) -> Path:
    """Make a key pair for a SuperNode, and return the private key's file; the public one's has ``.pub`` behind it."""
    key, file = ec.generate_private_key(ec.SECP384R1()), folder / name
    file.write_bytes(_private(key, serialization.PrivateFormat.OpenSSH))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    file.with_name(f"{name}.pub").write_bytes(public)
    return file


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFETIME)
        .not_valid_after(now + _LIFETIME)
    )


def _private(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
