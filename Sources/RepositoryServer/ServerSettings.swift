import Core

/// What a server serves, to whom, and how much of it.
package struct ServerSettings: Sendable {
  /// All repositories lie below it.
  package var directory: String
  package var host = "127.0.0.1"
  /// 0: one that is free.
  package var port = 8000
  /// `name:hash` lines, as `htpasswd -B` writes them; `nil` lets everybody in.
  package var usersFile: String?
  /// Nothing but locks can be deleted, and nothing be replaced.
  package var isAppendOnly = false
  /// A user reaches only what lies below a directory of the user's own name.
  package var hasPrivateRepositories = false
  /// Bytes each user may store, or all together if repositories are not private.
  package var quotaBytes: Int?
  package var tls: TLS?
  package var metrics = Metrics.users

  package struct TLS: Sendable {
    /// The server's chain and its key, in PEM.
    package var certificateFile: String
    package var keyFile: String
    /// Only clients with a certificate signed by one of these are spoken to.
    package var clientAuthorityFile: String?

    package init(certificateFile: String, keyFile: String, clientAuthorityFile: String? = nil) {
      self.certificateFile = certificateFile
      self.keyFile = keyFile
      self.clientAuthorityFile = clientAuthorityFile
    }
  }

  /// Who may read `/metrics`.
  package enum Metrics: Sendable { case nobody, users, everybody }

  package init(directory: String) { self.directory = directory }
}

/// Why a server can't start.
package enum ServerFailure: Failure {
  case directory(Report)
  case usersFile(String, String)
  case certificate(String, String)
  case listen(String, String)

  package var report: Report {
    switch self {
    case .directory(let report):
      Report("SERVE-101", "can't serve the directory: \(report.summary)").remedy(report.remedy ?? "check the path")
    case .usersFile(let path, let reason):
      Report("SERVE-102", "can't take users from \(path): \(reason)")
        .remedy("write it with `htpasswd -B -c \(path) NAME`; only bcrypt, scrypt, yescrypt and SHA-512 are taken")
    case .certificate(let path, let reason):
      Report("SERVE-103", "can't use \(path) for TLS: \(reason)")
        .remedy("give a certificate chain and its unencrypted private key, both in PEM")
    case .listen(let address, let reason):
      Report("SERVE-104", "can't listen on \(address): \(reason)", retry: .afterBackoff)
        .remedy("choose another address with --listen, or end what listens there")
    }
  }
}
