import NIOSSL

/// Whom a connection trusts, and who it says it is. Paths only: keys are read when a client is made.
package struct WebTrust: Sendable, Hashable {
  /// Certificates in PEM, instead of the system's.
  package var authorityFile: String?
  /// A certificate chain and its private key, both in PEM, in one file, for servers that ask for one.
  package var clientCertificateFile: String?
  /// The private key, if it has a file of its own.
  package var clientKeyFile: String?

  package init(authorityFile: String? = nil, clientCertificateFile: String? = nil, clientKeyFile: String? = nil) {
    (self.authorityFile, self.clientCertificateFile) = (authorityFile, clientCertificateFile)
    self.clientKeyFile = clientKeyFile
  }

  /// Blocks while files are read.
  func configuration() throws(WebFailure) -> TLSConfiguration? {
    guard authorityFile != nil || clientCertificateFile != nil else { return nil }
    var result = TLSConfiguration.makeClientConfiguration()
    result.minimumTLSVersion = .tlsv12
    if let authorityFile {
      do { result.trustRoots = .certificates(try NIOSSLCertificate.fromPEMFile(authorityFile)) } catch {
        throw .trust("there are no certificates in \(authorityFile)")
      }
    }
    if let clientCertificateFile {
      do {
        result.certificateChain = try NIOSSLCertificate.fromPEMFile(clientCertificateFile).map { .certificate($0) }
        result.privateKey = .privateKey(
          try NIOSSLPrivateKey(file: clientKeyFile ?? clientCertificateFile, format: .pem))
      } catch {
        let files = [clientCertificateFile, clientKeyFile].compactMap { $0 }.joined(separator: ", ")
        throw .trust("\(files) doesn't hold a certificate and its private key")
      }
    }
    return result
  }
}

extension WebTrust {
  /// As restic's variables say: `RESTIC_CACERT` and `RESTIC_TLS_CLIENT_CERT`.
  package init(_ environment: [String: String]) {
    func file(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }
    self.init(authorityFile: file("RESTIC_CACERT"), clientCertificateFile: file("RESTIC_TLS_CLIENT_CERT"))
  }
}
