import ArgumentParser
import Console
import Core
import Foundation
import IO
import RepositoryServer

/// Gives other machines repositories on this one's disks.
struct Serve: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve", abstract: "Serve repositories on this machine's disks to restic and Salvor elsewhere.",
    discussion: """
      Speaks restic's REST protocol, versions 1 and 2. Below the directory lie ordinary restic repositories. An object is \
      kept only if it came whole and its SHA-256 is its name. SIGTERM ends the server.

      Users come from a file of `name:hash` lines, as `htpasswd -B` writes them; it is read again when it changes.

      EXAMPLES
        htpasswd -B -c /etc/salvor/users alice
        salvor vault serve --path /srv/repositories --users /etc/salvor/users --append-only --private-repos
        salvor vault serve --path /srv/repositories --users /etc/salvor/users --listen 0.0.0.0:8000 \
      --tls-cert server.pem --tls-key server.key
        salvor vault -r rest:https://backup.example:8000/alice/laptop/ init
      """)

  @Option(help: ArgumentHelp("Directory that holds the repositories.", valueName: "directory"), completion: .directory)
  var path: String

  @Option(help: ArgumentHelp("Address and port to listen on.", valueName: "host:port"))
  var listen = "127.0.0.1:8000"

  @Option(help: ArgumentHelp("File of users and hashed passwords.", valueName: "file"), completion: .file())
  var users: String?

  @Flag(help: "Let everybody in who can connect.")
  var noAuth = false

  @Flag(help: "Refuse to delete anything but locks: backups can't be removed by who makes them.")
  var appendOnly = false

  @Flag(help: "Give each user only what lies below /<user>/.")
  var privateRepos = false

  @Option(help: ArgumentHelp("What each user may store, or all together without --private-repos.", valueName: "bytes"))
  var maxSize: Int?

  @Option(help: ArgumentHelp("The server's certificate chain, PEM.", valueName: "file"), completion: .file())
  var tlsCert: String?

  @Option(help: ArgumentHelp("The certificate's private key, PEM.", valueName: "file"), completion: .file())
  var tlsKey: String?

  @Option(
    help: ArgumentHelp("Speak only to clients with a certificate signed by one of these, PEM.", valueName: "file"),
    completion: .file())
  var tlsClientCa: String?

  @Flag(help: "Listen without TLS on an address that other machines reach, such as behind a proxy.")
  var plainHttp = false

  @Flag(help: "Show /metrics to everybody, not only to users.")
  var metricsNoAuth = false

  func run() async throws {
    let settings = try settings()
    let scheme = settings.tls == nil ? "http" : "https"
    let server = RepositoryServer(settings, log: { standardError("\($0.harmless)\n") })
    do {
      try await server.run { port in
        standardError("serving \(settings.directory) on \(scheme)://\(settings.host):\(port)/\n")
      }
    } catch is CancellationError {
      // Asked to end: that is how a server ends.
    }
  }

  private func settings() throws -> ServerSettings {
    var settings = ServerSettings(directory: absolute(path))
    guard let colon = listen.lastIndex(of: ":"), let port = UInt16(listen[listen.index(after: colon)...]) else {
      throw ValidationError("'\(listen)' is not an address and a port, such as 127.0.0.1:8000")
    }
    settings.host = String(listen[..<colon]).trimmingCharacters(in: CharacterSet(charactersIn: "[]"))
    settings.port = Int(port)
    guard (users == nil) == noAuth else {
      throw ValidationError("give either --users, or --no-auth to let everybody in")
    }
    if privateRepos, noAuth { throw ValidationError("--private-repos needs users") }
    settings.usersFile = users.map(absolute)
    (settings.isAppendOnly, settings.hasPrivateRepositories) = (appendOnly, privateRepos)
    if let maxSize {
      guard maxSize > 0 else { throw ValidationError("--max-size needs a number of bytes") }
      settings.quotaBytes = maxSize
    }
    settings.metrics = metricsNoAuth ? .everybody : .users
    switch (tlsCert, tlsKey) {
    case (let certificate?, let key?):
      settings.tls = .init(
        certificateFile: absolute(certificate), keyFile: absolute(key), clientAuthorityFile: tlsClientCa.map(absolute))
    case (nil, nil):
      if tlsClientCa != nil { throw ValidationError("--tls-client-ca needs --tls-cert and --tls-key") }
      let isLocal = settings.host == "::1" || settings.host == "localhost" || settings.host.hasPrefix("127.")
      guard isLocal || plainHttp else {
        throw ValidationError(
          "\(settings.host) is reached by other machines: give --tls-cert and --tls-key, or --plain-http behind a proxy"
        )
      }
    default: throw ValidationError("--tls-cert and --tls-key go together")
    }
    return settings
  }
}
