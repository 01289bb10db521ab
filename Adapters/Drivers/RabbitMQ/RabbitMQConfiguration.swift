import Core
import DriverKit
import IO

/// What the catalog says about one RabbitMQ node, checked.
struct RabbitMQConfiguration: Sendable, Equatable {
  /// Whether publishers are made to wait with the group.
  enum Hold: String, Sendable {
    case none
    /// The node's process stands still.
    case process
  }

  var store: StoreName
  var host: String
  var port: UInt16
  /// The node's own directory, `…/mnesia/rabbit@host`.
  var dataDirectory: String
  var hold: Hold
  var binary: String
  var configFile: String?
  var runAs: String?
  var startCommand: [String]
  var stopCommand: [String]
  var timeout: Duration
  var managementPort: UInt16
  var user: String?
  var password: SecretReference?

  var peer: String { "\(host):\(port)" }
  /// Such as `rabbit@host`: a node's directory has its name.
  var node: String { Files.last(of: dataDirectory) }
  /// Whether the driver can bring the server up again after it stopped it.
  var canStart: Bool { !startCommand.isEmpty || configFile != nil }

  static func isNode(_ text: String) -> Bool { text.wholeMatch(of: /[A-Za-z0-9_-]{1,64}@[A-Za-z0-9._-]{1,253}/) != nil }

  init(_ configuration: StoreConfiguration) throws(DriverError) {
    let store = configuration.name
    func refuse(_ option: String, _ why: String) -> DriverError { .badOption(store: store, option: option, why: why) }
    self.store = store
    host = configuration.string("host") ?? "127.0.0.1"
    guard !host.isEmpty, !host.hasPrefix("/") else { throw refuse("host", "is no name or address") }
    func port(_ option: String, _ usual: Int64) throws(DriverError) -> UInt16 {
      guard let port = UInt16(exactly: configuration.integer(option) ?? usual), port > 0 else {
        throw refuse(option, "is not between 1 and 65535")
      }
      return port
    }
    self.port = try port("port", 5672)
    managementPort = try port("managementPort", 15672)
    for option in ["dataDirectory", "configFile"] {
      guard configuration.string(option)?.hasPrefix("/") ?? true else {
        throw refuse(option, "is not an absolute path")
      }
    }
    dataDirectory = try configuration.required("dataDirectory")
    while dataDirectory.count > 1, dataDirectory.hasSuffix("/") { dataDirectory.removeLast() }
    guard Self.isNode(Files.last(of: dataDirectory)) else {
      throw refuse("dataDirectory", "doesn't end with a node's name, such as 'rabbit@host'")
    }
    guard let hold = Hold(rawValue: configuration.string("hold") ?? "process") else {
      throw refuse("hold", "is neither 'none' nor 'process'")
    }
    self.hold = hold
    binary = configuration.string("binary") ?? "/usr/lib/rabbitmq/bin/rabbitmq-server"
    guard binary.hasPrefix("/") else { throw refuse("binary", "is not an absolute path") }
    configFile = configuration.string("configFile")
    runAs = configuration.string("runAs")
    startCommand = configuration.strings("start")
    stopCommand = configuration.strings("stop")
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

/// Makes drivers for RabbitMQ nodes.
package enum RabbitMQDriverFactory: DriverFactory {
  package static var name: DriverName { "rabbitmq" }
  package static var summary: String {
    "RabbitMQ 3.10: one node's definitions and durable messages, cut while its process stands still."
  }
  package static var options: [OptionSchema] {
    [
      OptionSchema("host", .string, default: "127.0.0.1", help: "Address of this machine where the node listens."),
      OptionSchema("port", .integer, default: "5672", help: "Port for AMQP clients."),
      OptionSchema(
        "dataDirectory", .path, required: true,
        help: "The node's own directory on this machine, such as /var/lib/rabbitmq/mnesia/rabbit@host."),
      OptionSchema(
        "hold", .string, default: "process",
        help:
          "'process' makes the node stand still while writers are held; 'none' only for its own copy, outside the hold."
      ),
      OptionSchema(
        "binary", .path, default: "/usr/lib/rabbitmq/bin/rabbitmq-server",
        help: "The server's program, for proofs and for starting it."),
      OptionSchema(
        "configFile", .path, help: "The rabbitmq-env.conf the node is started with if there is no 'start' command."),
      OptionSchema("runAs", .string, help: "System user that owns the directory and runs the node."),
      OptionSchema("start", .strings, help: "Command that starts the node, word by word."),
      OptionSchema("stop", .strings, help: "Command that stops the node; without it the driver sends SIGTERM."),
      OptionSchema("managementPort", .integer, default: "15672", help: "Port of the management plugin, for queries."),
      OptionSchema("user", .string, help: "User for queries, with the tag 'monitoring'; captures need none."),
      OptionSchema("password", .secret, help: "Where the user's password is read from."),
      OptionSchema("timeout", .duration, default: "5s", help: "How long to wait for a connection or an answer."),
    ]
  }

  package static func make(
    _ configuration: StoreConfiguration, in environment: DriverEnvironment
  ) throws(DriverError) -> any DataStoreDriver {
    RabbitMQDriver(try RabbitMQConfiguration(configuration), environment)
  }
}
