import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Makes drivers for MariaDB servers on this machine.
package enum MariaDBDriverFactory: DriverFactory {
  package static let name: DriverName = "mariadb"

  package static let summary =
    "A whole MariaDB server (10.11): an online physical copy with its binary log, held before commits."

  package static let options: [OptionSchema] = [
    OptionSchema("dataDirectory", .path, required: true, help: "The server's data directory on this machine."),
    OptionSchema("socket", .path, help: "The server's Unix socket; instead of host and port."),
    OptionSchema("host", .string, default: "127.0.0.1", help: "Name or address."),
    OptionSchema("port", .integer, default: "3306", help: "TCP port."),
    OptionSchema("user", .string, default: "salvor", help: "A user with the grants listed below."),
    OptionSchema("password", .secret, help: "The user's password, if the server asks for one."),
    OptionSchema(
      "binDirectory", .path, help: "Where mariadbd and mariadb-backup are; else PATH, /usr/sbin and /usr/bin."),
    OptionSchema(
      "runAs", .string,
      help: "System user for server processes when Salvor runs as root; else the data directory's owner."),
    OptionSchema("configFile", .path, help: "The file of options mariadbd is started with; else its usual ones."),
    OptionSchema(
      "start", .string, help: "Command that starts the server, without a shell; else mariadbd. 'none': nobody does."),
    OptionSchema(
      "stop", .string, help: "Command that stops the server, without a shell; else SIGTERM. 'none': nobody does."),
    OptionSchema(
      "semiSync", .boolean, default: "false",
      help: "Whether 'salvor follow' acknowledges as a semi-synchronous replica: what is in the repository."),
    OptionSchema("startTimeout", .duration, default: "1h", help: "How long a start may take, recovery included."),
  ]

  package static func make(_ configuration: StoreConfiguration, in environment: DriverEnvironment) throws(DriverError)
    -> any DataStoreDriver
  {
    let store = configuration.name
    func path(_ option: String) throws(DriverError) -> String? {
      guard var path = configuration.string(option) else { return nil }
      while path.count > 1, path.hasSuffix("/") { path.removeLast() }
      guard path.hasPrefix("/"), path != "/", !path.contains(where: \.isNewline) else {
        throw .badOption(store: store, option: option, why: "must be an absolute path below /")
      }
      return path
    }
    _ = try configuration.required("dataDirectory")
    guard let directory = try path("dataDirectory") else {
      throw .badOption(store: store, option: "dataDirectory", why: "is required")
    }
    guard let port = UInt16(exactly: configuration.integer("port") ?? 3306), port > 0 else {
      throw .badOption(store: store, option: "port", why: "must be from 1 to 65535")
    }
    let socket = try path("socket")
    if socket != nil, configuration.string("host") != nil || configuration.integer("port") != nil {
      throw .badOption(store: store, option: "socket", why: "can't be given with host or port")
    }
    if let socket, socket.utf8.count > 107 {
      throw .badOption(store: store, option: "socket", why: "is longer than the 107 bytes a socket's path may have")
    }
    for option in ["user", "host"] {
      guard let value = configuration.string(option) else { continue }
      guard !value.isEmpty, !value.contains(where: \.isNewline), !value.contains("\0") else {
        throw .badOption(store: store, option: option, why: "must be one line of text")
      }
    }
    if configuration.string("password") != nil, configuration.secret("password") == nil {
      throw .badOption(store: store, option: "password", why: "must be a reference: file:…, env:… or command:…")
    }
    if configuration.string("startTimeout") != nil, configuration.duration("startTimeout") == nil {
      throw .badOption(store: store, option: "startTimeout", why: "must be a duration, such as 10m")
    }
    return MariaDBDriver(
      store: store,
      address: ServerAddress(
        host: configuration.string("host") ?? "127.0.0.1", port: port, socket: socket,
        user: configuration.string("user") ?? "salvor"), password: configuration.secret("password"),
      dataDirectory: directory, binDirectory: try path("binDirectory"), runAs: configuration.string("runAs"),
      configFile: try path("configFile"), startCommand: configuration.string("start"),
      stopCommand: configuration.string("stop"),
      startTimeout: configuration.duration("startTimeout") ?? .seconds(3600),
      isSemiSynchronous: configuration.boolean("semiSync") ?? false, environment: environment)
  }
}

/// One MariaDB server: asked over its protocol, its files copied and put in place on this machine.
struct MariaDBDriver: DataStoreDriver {
  var store: StoreName
  var address: ServerAddress
  var password: SecretReference?
  var dataDirectory: String
  var binDirectory: String?
  var runAs: String?
  var configFile: String?
  var startCommand: String?
  var stopCommand: String?
  var startTimeout: Duration
  /// Whether following counts as a replica that commits may wait for.
  var isSemiSynchronous = false
  var environment: DriverEnvironment

  // MARK: Asking

  func traits() async throws(DriverError) -> DriverTraits {
    let connection = try await connect()
    let result: Result<ServerFacts, DriverError>
    do throws(DriverError) {
      let facts = try await ServerFacts.read(connection)
      try facts.requireCapturable()
      result = .success(facts)
    } catch { result = .failure(error) }
    await connection.close()
    let facts = try result.get()
    let size = await environment.pool.run { try? treeBytes(dataDirectory) }
    return DriverTraits(version: facts.version, hold: facts.hold, sizeBytes: size, notes: facts.notes)
  }

  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession {
    MariaDBCapture(self, context)
  }

  /// What a query may begin with: whatever else the server knows could change something, if only a setting.
  private static let reading: Set<String> = ["SELECT", "SHOW", "WITH", "DESCRIBE", "DESC", "EXPLAIN", "VALUES"]

  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    let first = text.drop { $0.isWhitespace || $0 == "(" }.prefix { $0.isLetter }.uppercased()
    guard Self.reading.contains(first) else {
      throw .queryFailed("a query begins with one of \(Self.reading.sorted().joined(separator: ", "))")
    }
    let connection = try await connect()
    let outcome: Result<QueryResult, DriverError>
    do throws(StatementFailure) {
      let seconds = max(0.001, Double(limit.timeout.wholeNanoseconds) / 1e9)
      try await connection.run("SET SESSION TRANSACTION READ ONLY")
      try await connection.run("SET SESSION max_statement_time = \(seconds), lock_wait_timeout = 10")
      try await connection.run("START TRANSACTION READ ONLY")
      // Several statements in one are not agreed upon with the server: it refuses them.
      outcome = .success(try await connection.run(text, rowLimit: limit.rows))
    } catch {
      outcome = .failure(error.isCancelled ? .cancelled : .queryFailed(error.message))
    }
    await connection.close()
    return try outcome.get()
  }

  func secret() async throws(DriverError) -> Secret? {
    guard let password else { return nil }
    do throws(AnyFailure) { return try await environment.resolve(password) } catch { throw DriverError(error) }
  }

  /// A connection with none of the server's own time limits.
  func connect() async throws(DriverError) -> Connection {
    let connection = try await Connection.open(address, password: try await secret(), pool: environment.pool)
    do throws(StatementFailure) {
      try await connection.run(
        "SET SESSION max_statement_time = 0, wait_timeout = \(CommitHold.idleSeconds), net_write_timeout = 3600")
    } catch {
      await connection.close()
      throw error.driverError("connecting to \(address)")
    }
    return connection
  }

  func blocking<T: Sendable>(_ body: @escaping @Sendable () throws(DriverError) -> T) async throws(DriverError) -> T {
    try await environment.pool.run(body)
  }

  /// - Throws: ``DriverError/unsupported(_:)`` if the server that answers isn't the one the directory belongs to.
  func requireOwnDirectory(_ facts: ServerFacts) async throws(DriverError) {
    let theirs = ServerFacts.directory(facts.variables["datadir"] ?? "")
    let ours = dataDirectory
    let isOwn = await environment.pool.run {
      var (a, b) = (stat(), stat())
      return stat(theirs, &a) == 0 && stat(ours, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino
        && isLive(ours)
    }
    guard isOwn else {
      throw .unsupported(
        "the server at \(address) does not run on \(dataDirectory) but on \(theirs): correct dataDirectory or address")
    }
  }
}
