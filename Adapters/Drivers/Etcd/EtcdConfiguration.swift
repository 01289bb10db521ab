import Core
import DriverKit
import IO

/// What the catalog says about one etcd, checked.
struct EtcdConfiguration: Sendable, Equatable {
  var store: StoreName
  /// Of one member, such as `http://127.0.0.1:2379`.
  var endpoint: String
  var user: String?
  var password: SecretReference?
  var authorityFile: String?
  var certificateFile: String?
  var keyFile: String?
  var dataDirectory: String?
  var memberName: String
  var peerURL: String
  var clusterToken: String
  var binary: String
  var control: String
  var configFile: String?
  var runAs: String?
  var startCommand: [String]
  var stopCommand: [String]
  var timeout: Duration

  var canStart: Bool { !startCommand.isEmpty || configFile != nil }
  var isSecure: Bool { endpoint.hasPrefix("https://") }

  /// Host and port of the endpoint.
  var address: (host: String, port: UInt16) {
    let rest = endpoint.drop { $0 != ":" }.dropFirst(3).prefix { $0 != "/" }
    let colon = rest.lastIndex(of: ":") ?? rest.endIndex
    var host = String(rest[..<colon])
    if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
    return (host, UInt16(rest[colon...].dropFirst()) ?? 0)
  }

  var isLocal: Bool { ["127.0.0.1", "localhost", "::1"].contains(address.host) }

  init(_ configuration: StoreConfiguration) throws(DriverError) {
    let store = configuration.name
    func refuse(_ option: String, _ why: String) -> DriverError { .badOption(store: store, option: option, why: why) }
    self.store = store
    endpoint = configuration.string("endpoint") ?? "http://127.0.0.1:2379"
    func isURL(_ text: String) -> Bool {
      text.wholeMatch(of: /https?:\/\/([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}/) != nil
    }
    guard isURL(endpoint) else { throw refuse("endpoint", "is not http://host:port or https://host:port") }
    user = configuration.string("user")
    if let text = configuration.string("password") {
      guard let reference = SecretReference(text) else {
        throw refuse("password", "is not a secret reference (file:…, env:… or command:…)")
      }
      password = reference
    }
    guard (user == nil) == (password == nil) else {
      throw refuse(user == nil ? "password" : "user", "needs both, user and password")
    }
    guard user?.contains(":") != true else { throw refuse("user", "has a colon in it") }
    for option in ["authorityFile", "certificateFile", "keyFile", "dataDirectory", "configFile"] {
      guard configuration.string(option)?.hasPrefix("/") ?? true else {
        throw refuse(option, "is not an absolute path")
      }
    }
    authorityFile = configuration.string("authorityFile")
    certificateFile = configuration.string("certificateFile")
    keyFile = configuration.string("keyFile")
    guard (certificateFile == nil) == (keyFile == nil) else {
      throw refuse(certificateFile == nil ? "keyFile" : "certificateFile", "needs both, certificate and key")
    }
    dataDirectory = configuration.string("dataDirectory").map { path in
      var path = path
      while path.count > 1, path.hasSuffix("/") { path.removeLast() }
      return path
    }
    memberName = configuration.string("memberName") ?? "default"
    guard memberName.wholeMatch(of: /[A-Za-z0-9._-]{1,128}/) != nil else {
      throw refuse("memberName", "has other characters than letters, digits, '.', '_' and '-'")
    }
    peerURL = configuration.string("peerURL") ?? "http://localhost:2380"
    guard isURL(peerURL) else { throw refuse("peerURL", "is not http://host:port or https://host:port") }
    clusterToken = configuration.string("clusterToken") ?? "etcd-cluster"
    guard clusterToken.wholeMatch(of: /[A-Za-z0-9._-]{1,128}/) != nil else {
      throw refuse("clusterToken", "has other characters than letters, digits, '.', '_' and '-'")
    }
    binary = configuration.string("binary") ?? "etcd"
    control = configuration.string("control") ?? "etcdctl"
    configFile = configuration.string("configFile")
    runAs = configuration.string("runAs")
    startCommand = configuration.strings("start")
    stopCommand = configuration.strings("stop")
    if configuration.string("timeout") != nil {
      guard let limit = configuration.duration("timeout"), limit > .zero else {
        throw refuse("timeout", "is not a duration such as '5s'")
      }
      timeout = limit
    } else {
      timeout = .seconds(5)
    }
  }
}

/// Makes drivers for etcd.
package enum EtcdDriverFactory: DriverFactory {
  package static var name: DriverName { "etcd" }
  package static var summary: String {
    "etcd 3.4 and later: a snapshot whose one revision is fixed while the other stores are held."
  }
  package static var options: [OptionSchema] {
    [
      OptionSchema("endpoint", .string, default: "http://127.0.0.1:2379", help: "One member's address for clients."),
      OptionSchema("user", .string, help: "User, with a password, where authentication is on."),
      OptionSchema("password", .secret, help: "Where the user's password is read from."),
      OptionSchema("authorityFile", .path, help: "Certificates in PEM that sign the server's, for https."),
      OptionSchema("certificateFile", .path, help: "Our certificate in PEM, for servers that ask for one."),
      OptionSchema("keyFile", .path, help: "The key of our certificate in PEM."),
      OptionSchema("dataDirectory", .path, help: "The member's data directory on this machine, for restores."),
      OptionSchema("memberName", .string, default: "default", help: "The restored member's name."),
      OptionSchema(
        "peerURL", .string, default: "http://localhost:2380",
        help: "The address the restored member advertises to peers."
      ),
      OptionSchema("clusterToken", .string, default: "etcd-cluster", help: "The restored cluster's token."),
      OptionSchema("binary", .string, default: "etcd", help: "The server's program, for proofs and for starting it."),
      OptionSchema("control", .string, default: "etcdctl", help: "The program that takes and restores snapshots."),
      OptionSchema(
        "configFile", .path, help: "Configuration the server is started with if there is no 'start' command."),
      OptionSchema("runAs", .string, help: "System user that owns the data directory and runs the server."),
      OptionSchema("start", .strings, help: "Command that starts the server, word by word."),
      OptionSchema("stop", .strings, help: "Command that stops the server; without it the driver sends SIGTERM."),
      OptionSchema("timeout", .duration, default: "5s", help: "How long to wait for a connection or an answer."),
    ]
  }

  package static func make(
    _ configuration: StoreConfiguration, in environment: DriverEnvironment
  ) throws(DriverError) -> any DataStoreDriver {
    EtcdDriver(try EtcdConfiguration(configuration), environment)
  }
}
