import Core
import IO

/// A certificate authority, a server's certificate for 127.0.0.1 and a client's, as files in PEM.
package struct Certificates: Sendable {
  package let directory: TemporaryDirectory
  package var authority: String { directory.file("ca.pem") }
  package var server: String { directory.file("server.pem") }
  package var serverKey: String { directory.file("server.key") }
  /// Certificate and key.
  package var client: String { directory.file("client-both.pem") }

  /// - Parameter authority: Signed by it instead of one of their own.
  package init(signedBy authority: Certificates? = nil) async throws {
    directory = try TemporaryDirectory("certificates")
    if let authority {
      for name in ["ca.pem", "ca.key"] {
        try Files.replace(directory.file(name), with: try Files.read(authority.directory.file(name)))
      }
    } else {
      try await openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out",
        "ca.pem", "-days", "2", "-subj", "/CN=test authority", "-addext", "basicConstraints=critical,CA:TRUE")
    }
    try Files.replace(
      directory.file("names"),
      with: Array("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n".utf8))
    for name in ["server", "client"] {
      try await openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "\(name).key", "-out",
        "\(name).csr", "-subj", "/CN=\(name)")
      try await openssl(
        "x509", "-req", "-in", "\(name).csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
        "-out", "\(name).pem", "-extfile", "names")
    }
    try Files.replace(
      client, with: try Files.read(directory.file("client.pem")) + Files.read(directory.file("client.key")))
  }

  private func openssl(_ words: String...) async throws {
    try await CommandRun(["openssl"] + words, in: directory.path).succeeded()
  }
}
