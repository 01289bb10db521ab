import Core
import DriverKit
import IO

/// What the catalog says about one NATS server's streams, checked.
struct NATSConfiguration: Sendable, Equatable {
  /// Whether and how publishers are made to wait.
  enum Hold: String, Sendable {
    case none
    /// The server's process stands still.
    case process
  }

  var store: StoreName
  var host: String
  var port: UInt16
  var user: String?
  var password: SecretReference?
  var token: SecretReference?
  var account: String
  var inbox: String
  /// The server's `store_dir`, without `jetstream`.
  var storeDirectory: String?
  var hold: Hold
  /// Whether the streams' log is followed, and points along logs only mark it.
  var isFollowed: Bool
  var binary: String
  var configFile: String?
  var runAs: String?
  var startCommand: [String]
  var stopCommand: [String]
  var timeout: Duration

  var peer: String { "\(host):\(port)" }
  /// Whether the driver can bring the server up again after it stopped it.
  var canStart: Bool { !startCommand.isEmpty || configFile != nil }
  /// The server runs on this machine.
  var isLocal: Bool { ["127.0.0.1", "localhost", "::1"].contains(host) }

  init(_ configuration: StoreConfiguration) throws(DriverError) {
    let store = configuration.name
    func refuse(_ option: String, _ why: String) -> DriverError { .badOption(store: store, option: option, why: why) }
    self.store = store
    host = configuration.string("host") ?? "127.0.0.1"
    guard !host.isEmpty, !host.hasPrefix("/") else { throw refuse("host", "is no name or address") }
    guard let port = UInt16(exactly: configuration.integer("port") ?? 4222), port > 0 else {
      throw refuse("port", "is not between 1 and 65535")
    }
    self.port = port
    func secret(_ option: String) throws(DriverError) -> SecretReference? {
      guard let text = configuration.string(option) else { return nil }
      guard let reference = SecretReference(text) else {
        throw refuse(option, "is not a secret reference (file:…, env:… or command:…)")
      }
      return reference
    }
    user = configuration.string("user")
    password = try secret("password")
    token = try secret("token")
    guard (user == nil) == (password == nil) else {
      throw refuse(user == nil ? "password" : "user", "needs both, user and password")
    }
    guard token == nil || user == nil else { throw refuse("token", "and 'user' exclude each other") }
    account = configuration.string("account") ?? "$G"
    guard StreamInfo.isName(account) else { throw refuse("account", "can't be an account's name") }
    inbox = configuration.string("inbox") ?? "_INBOX"
    guard inbox.split(separator: ".", omittingEmptySubsequences: false).allSatisfy({ StreamInfo.isName(String($0)) })
    else { throw refuse("inbox", "can't be the begin of a subject") }
    for option in ["storeDirectory", "configFile"] {
      guard configuration.string(option)?.hasPrefix("/") ?? true else {
        throw refuse(option, "is not an absolute path")
      }
    }
    storeDirectory = configuration.string("storeDirectory").map { path in
      var path = path
      while path.count > 1, path.hasSuffix("/") { path.removeLast() }
      return path
    }
    guard let hold = Hold(rawValue: configuration.string("hold") ?? "none") else {
      throw refuse("hold", "is neither 'none' nor 'process'")
    }
    self.hold = hold
    isFollowed = configuration.boolean("log") ?? false
    binary = configuration.string("binary") ?? "nats-server"
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
    if hold == .process {
      guard isLocal else { throw refuse("hold", "'process' needs a server on this machine") }
      guard storeDirectory != nil else { throw refuse("hold", "'process' needs 'storeDirectory'") }
    }
  }
}

/// Makes drivers for NATS servers with JetStream.
package enum NATSDriverFactory: DriverFactory {
  package static var name: DriverName { "nats" }
  package static var summary: String {
    "NATS JetStream: streams, durable consumers, key-value and object stores; cut at one moment of the server's clock."
  }
  package static var options: [OptionSchema] {
    [
      OptionSchema("host", .string, default: "127.0.0.1", help: "Name or address of the server."),
      OptionSchema("port", .integer, default: "4222", help: "Port for clients."),
      OptionSchema("user", .string, help: "User, with a password."),
      OptionSchema("password", .secret, help: "Where the user's password is read from."),
      OptionSchema("token", .secret, help: "Where a token is read from, instead of user and password."),
      OptionSchema("account", .string, default: "$G", help: "The account's name, which is a directory in the store."),
      OptionSchema("inbox", .string, default: "_INBOX", help: "How subjects for answers begin."),
      OptionSchema(
        "storeDirectory", .path, help: "The server's 'store_dir' on this machine, for restores and 'hold: process'."),
      OptionSchema(
        "hold", .string, default: "none",
        help: "'process' makes the server stand still while writers are held; 'none' holds nobody."),
      OptionSchema(
        "log", .boolean, default: "false",
        help: "Let the streams be followed, so that points need no copy; not for accounts with work queues."),
      OptionSchema(
        "binary", .string, default: "nats-server", help: "The server's program, for proofs and for starting it."),
      OptionSchema(
        "configFile", .path, help: "Configuration the server is started with if there is no 'start' command."),
      OptionSchema("runAs", .string, help: "System user that owns the store and runs the server."),
      OptionSchema("start", .strings, help: "Command that starts the server, word by word."),
      OptionSchema("stop", .strings, help: "Command that stops the server; without it the driver sends SIGTERM."),
      OptionSchema("timeout", .duration, default: "5s", help: "How long to wait for a connection or an answer."),
    ]
  }

  package static func make(
    _ configuration: StoreConfiguration, in environment: DriverEnvironment
  ) throws(DriverError) -> any DataStoreDriver {
    NATSDriver(try NATSConfiguration(configuration), environment)
  }
}
