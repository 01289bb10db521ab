import Core
import DriverKit
import IO

/// What the catalog says about one Redis store, checked.
struct RedisConfiguration: Sendable, Equatable {
  var store: StoreName
  /// A name, an address, or the absolute path of a Unix socket.
  var host: String
  var port: UInt16
  var user: String?
  var password: SecretReference?
  var dataDirectory: String?
  var binary: String
  var configFile: String?
  var runAs: String?
  var startCommand: [String]
  var stopCommand: [String]
  var timeout: Duration

  var peer: String { host.hasPrefix("/") ? host : "\(host):\(port)" }
  /// Whether the driver can bring the server up again after it stopped it.
  var canStart: Bool { !startCommand.isEmpty || configFile != nil }

  init(_ configuration: StoreConfiguration) throws(DriverError) {
    store = configuration.name
    host = configuration.string("host") ?? "127.0.0.1"
    guard !host.isEmpty else { throw .badOption(store: store, option: "host", why: "is empty") }
    let number = configuration.integer("port") ?? 6379
    guard let port = UInt16(exactly: number), port > 0 else {
      throw .badOption(store: store, option: "port", why: "is not between 1 and 65535")
    }
    self.port = port
    user = configuration.string("user")
    if let text = configuration.string("password") {
      guard let reference = SecretReference(text) else {
        throw .badOption(
          store: store, option: "password", why: "is not a secret reference (file:…, env:… or command:…)")
      }
      password = reference
    }
    guard user == nil || password != nil else {
      throw .badOption(store: store, option: "user", why: "needs a password beside it")
    }
    for option in ["dataDirectory", "configFile"] {
      guard configuration.string(option)?.hasPrefix("/") ?? true else {
        throw .badOption(store: store, option: option, why: "is not an absolute path")
      }
    }
    dataDirectory = configuration.string("dataDirectory").map { path in
      var path = path
      while path.count > 1, path.hasSuffix("/") { path.removeLast() }
      return path
    }
    binary = configuration.string("binary") ?? "redis-server"
    configFile = configuration.string("configFile")
    runAs = configuration.string("runAs")
    startCommand = configuration.strings("start")
    stopCommand = configuration.strings("stop")
    if configuration.string("timeout") != nil {
      guard let limit = configuration.duration("timeout"), limit > .zero else {
        throw .badOption(store: store, option: "timeout", why: "is not a duration such as '5s'")
      }
      timeout = limit
    } else {
      timeout = .seconds(5)
    }
  }
}

/// Makes drivers for Redis and Valkey.
package enum RedisDriverFactory: DriverFactory {
  package static var name: DriverName { "redis" }
  package static var summary: String {
    "Redis 6.2 and 7, Valkey: a replica's link for the copy, CLIENT PAUSE for the hold."
  }
  package static var options: [OptionSchema] {
    [
      OptionSchema(
        "host", .string, default: "127.0.0.1", help: "Name or address of the primary, or the path of its Unix socket."),
      OptionSchema("port", .integer, default: "6379", help: "Port of the primary."),
      OptionSchema("user", .string, help: "ACL user; without it the password is the default user's."),
      OptionSchema("password", .secret, help: "Where the password is read from."),
      OptionSchema(
        "dataDirectory", .path,
        help: "The server's 'dir' on this machine, for restores; without it the one the capture saw."),
      OptionSchema(
        "binary", .string, default: "redis-server", help: "The server's program, for proofs and for starting it."),
      OptionSchema(
        "configFile", .path, help: "Configuration the server is started with if there is no 'start' command."),
      OptionSchema("runAs", .string, help: "System user that owns the data files and runs the server."),
      OptionSchema("start", .strings, help: "Command that starts the server, word by word."),
      OptionSchema("stop", .strings, help: "Command that stops the server; without it the driver sends SHUTDOWN."),
      OptionSchema("timeout", .duration, default: "5s", help: "How long to wait for a connection or an answer."),
    ]
  }

  package static func make(
    _ configuration: StoreConfiguration, in environment: DriverEnvironment
  ) throws(DriverError) -> any DataStoreDriver {
    RedisDriver(try RedisConfiguration(configuration), environment)
  }
}
