import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Makes drivers for PostgreSQL clusters on this machine.
package enum PostgreSQLDriverFactory: DriverFactory {
  package static let name: DriverName = "postgresql"

  package static let summary =
    "A whole PostgreSQL cluster (15 or later): an online physical copy with its log, held by table locks."

  package static let options: [OptionSchema] = [
    OptionSchema("dataDirectory", .path, required: true, help: "The cluster's data directory on this machine."),
    OptionSchema("host", .string, default: "127.0.0.1", help: "Name, address, or the directory of a Unix socket."),
    OptionSchema("port", .integer, default: "5432", help: "TCP port, or the socket's number."),
    OptionSchema("user", .string, default: "postgres", help: "A superuser, or a role with the grants listed below."),
    OptionSchema("database", .string, default: "postgres", help: "Where to connect first, and where queries run."),
    OptionSchema("password", .secret, help: "The user's password, if the server asks for one."),
    OptionSchema(
      "binDirectory", .path, help: "Where postgres and pg_ctl are; else /usr/lib/postgresql/<major>/bin, then PATH."),
    OptionSchema(
      "runAs", .string,
      help: "System user for server processes when Salvor runs as root; else the data directory's owner."),
    OptionSchema(
      "start", .string, help: "Command that starts the server, without a shell; else pg_ctl. 'none': nobody does."),
    OptionSchema(
      "stop", .string, help: "Command that stops the server, without a shell; else pg_ctl. 'none': nobody does."),
    OptionSchema("serverOptions", .string, help: "Options for the server when pg_ctl starts it, such as '-p 5433'."),
    OptionSchema(
      "archiveDirectory", .path,
      help: "Follow what the server archives, not its replication stream: where its archive_command looks for answers."),
    OptionSchema(
      "standby", .string,
      help:
        "Copy the files of a standby on this machine: its name, address, or the directory of its socket. 'host' stays the primary."
    ),
    OptionSchema("standbyPort", .integer, help: "The standby's TCP port, or its socket's number; else the primary's."),
    OptionSchema("startTimeout", .duration, default: "1h", help: "How long a start may take, recovery included."),
  ]

  package static func make(_ configuration: StoreConfiguration, in environment: DriverEnvironment) throws(DriverError)
    -> any DataStoreDriver
  {
    let store = configuration.name
    var directory = try configuration.required("dataDirectory")
    while directory.count > 1, directory.hasSuffix("/") { directory.removeLast() }
    guard directory.hasPrefix("/"), directory != "/" else {
      throw .badOption(store: store, option: "dataDirectory", why: "must be an absolute path below /")
    }
    guard let port = UInt16(exactly: configuration.integer("port") ?? 5432), port > 0 else {
      throw .badOption(store: store, option: "port", why: "must be from 1 to 65535")
    }
    if configuration.string("password") != nil, configuration.secret("password") == nil {
      throw .badOption(store: store, option: "password", why: "must be a reference: file:…, env:… or command:…")
    }
    if configuration.string("startTimeout") != nil, configuration.duration("startTimeout") == nil {
      throw .badOption(store: store, option: "startTimeout", why: "must be a duration, such as 10m")
    }
    if let path = configuration.string("archiveDirectory"), !path.hasPrefix("/") || path == "/" {
      throw .badOption(store: store, option: "archiveDirectory", why: "must be an absolute path below /")
    }
    let standbyPort = UInt16(exactly: configuration.integer("standbyPort") ?? Int64(port))
    guard let standbyPort, standbyPort > 0 else {
      throw .badOption(store: store, option: "standbyPort", why: "must be from 1 to 65535")
    }
    let standbyHost = configuration.string("standby")
    if standbyHost == nil, configuration.integer("standbyPort") != nil {
      throw .badOption(store: store, option: "standbyPort", why: "is the port of a 'standby', and none is named")
    }
    if standbyHost != nil, configuration.string("archiveDirectory") != nil {
      throw .badOption(
        store: store, option: "archiveDirectory",
        why: "is where the primary's files are, and 'standby' says they aren't here")
    }
    let address = ServerAddress(
      host: configuration.string("host") ?? "127.0.0.1", port: port, user: configuration.string("user") ?? "postgres",
      database: configuration.string("database") ?? "postgres")
    let standby = standbyHost.map { address.at($0, port: standbyPort) }
    if standby == address { throw .badOption(store: store, option: "standby", why: "is the primary itself") }
    return PostgreSQLDriver(
      store: store, address: address, standby: standby, password: configuration.secret("password"),
      dataDirectory: directory,
      binDirectory: configuration.string("binDirectory"), runAs: configuration.string("runAs"),
      startCommand: configuration.string("start"), stopCommand: configuration.string("stop"),
      serverOptions: configuration.string("serverOptions"), archiveDirectory: configuration.string("archiveDirectory"),
      startTimeout: configuration.duration("startTimeout") ?? .seconds(3600), environment: environment)
  }
}

/// One PostgreSQL cluster: its server is asked over libpq, its files are copied and put in place on this machine.
struct PostgreSQLDriver: DataStoreDriver {
  var store: StoreName
  /// The primary, where writers are.
  var address: ServerAddress
  /// Whose files ``dataDirectory`` has, if not the primary's.
  var standby: ServerAddress?
  var password: SecretReference?
  var dataDirectory: String
  var binDirectory: String?
  var runAs: String?
  var startCommand: String?
  var stopCommand: String?
  var serverOptions: String?
  /// Set if the log is had through the server's `archive_command`.
  var archiveDirectory: String?
  var startTimeout: Duration
  var environment: DriverEnvironment

  // MARK: Asking

  func traits() async throws(DriverError) -> DriverTraits {
    let connection = try await connect()
    let facts: ClusterFacts
    do throws(DriverError) {
      facts = try await ClusterFacts.read(connection)
      try facts.requireCapturable()
      await connection.close()
    } catch {
      await connection.close()
      throw error
    }
    if standby != nil { await (try await source(of: facts)).connection.close() }
    return DriverTraits(
      version: facts.version, hold: .held(how: "SHARE lock on every table, in every database"),
      sizeBytes: facts.sizeBytes,
      notes: facts.notes)
  }

  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession {
    PostgreSQLCapture(self, context)
  }

  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    try await query(text, limit: limit, over: try await connect())
  }

  /// Closes the connection.
  func query(
    _ text: String, limit: QueryLimit, over connection: Connection
  ) async throws(DriverError) -> QueryResult {
    let outcome: Result<QueryResult, DriverError>
    do throws(StatementFailure) {
      let milliseconds = max(1, min(limit.timeout.wholeNanoseconds / 1_000_000, Int64(Int32.max)))
      _ = try await connection.run(
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = \(milliseconds)")
      // Row by row means one statement: nothing can come after it, and the transaction stays read-only.
      outcome = .success(try await connection.run(text, rowLimit: limit.rows))
    } catch {
      outcome = .failure(error.code == StatementFailure.cancelled.code ? .cancelled : .queryFailed(error.message))
    }
    await connection.close()
    return try outcome.get()
  }

  /// A connection with none of the server's own time limits.
  func connect(_ database: String? = nil) async throws(DriverError) -> Connection {
    try await connect(at: address.database(database ?? address.database))
  }

  private func connect(at address: ServerAddress) async throws(DriverError) -> Connection {
    var secret: Secret?
    if let password {
      do throws(AnyFailure) { secret = try await environment.resolve(password) } catch { throw DriverError(error) }
    }
    return try await connect(address, password: secret)
  }

  /// A connection to the server whose files are copied, and what it says about itself.
  ///
  /// - Parameter primary: What the primary says.
  /// - Throws: ``DriverError/unsupported(_:)`` if it isn't a standby of that primary.
  func source(of primary: ClusterFacts) async throws(DriverError) -> (connection: Connection, facts: ClusterFacts) {
    let connection = try await connect(at: standby ?? address)
    do throws(DriverError) {
      let facts = try await ClusterFacts.read(connection)
      if let standby { try facts.requireStandby(at: standby, of: primary) }
      return (connection, facts)
    } catch {
      await connection.close()
      throw error
    }
  }

  /// The two connections of a hold to one database.
  func enter(_ database: String) async throws(DriverError) -> TableHold.Member {
    let (locks, reader) = (try await connect(database), try await connect(database))
    do throws(StatementFailure) {
      let process = try await locks.value("SELECT pg_backend_pid()") ?? ""
      try await RowDigest.settle(reader)
      return TableHold.Member(database: database, locks: locks, locksProcess: process, reader: reader)
    } catch {
      throw error.driverError("looking for tables")
    }
  }

  func connect(_ address: ServerAddress, password: Secret?) async throws(DriverError) -> Connection {
    let connection = try await Connection.open(address, password: password, pool: environment.pool)
    do throws(StatementFailure) {
      _ = try await connection.run(
        """
        SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
        SET idle_session_timeout = 0
        """)
    } catch {
      await connection.close()
      throw error.driverError("connecting to \(address)")
    }
    return connection
  }

  /// - Throws: ``DriverError/unsupported(_:)`` if the server that answers isn't the one the directory belongs to.
  func requireOwnDirectory(_ facts: ClusterFacts, over connection: Connection) async throws(DriverError) {
    func controlFile() async throws(DriverError) -> (identifier: String, state: [String]) {
      let file = dataDirectory + "/global/pg_control"
      let bytes = try await environment.pool.run { () throws(DriverError) -> [UInt8] in
        do throws(SystemFailure) { return try Files.read(file, limitBytes: 1 << 16) } catch { throw DriverError(error) }
      }
      // Source: PostgreSQL 15, src/include/catalog/pg_control.h, ControlFileData: system_identifier comes first, and behind two
      // versions state (5 in archive recovery, 6 in production), time and checkPoint.
      guard bytes.count >= 40 else { return ("0", []) }
      return bytes.withUnsafeBytes {
        (
          String($0.loadUnaligned(as: UInt64.self)),
          [
            String($0.loadUnaligned(fromByteOffset: 16, as: UInt32.self)),
            String($0.loadUnaligned(fromByteOffset: 24, as: Int64.self)),
            LogSequenceNumber($0.loadUnaligned(fromByteOffset: 32, as: UInt64.self)).description,
          ]
        )
      }
    }
    let wrong = DriverError.unsupported(
      "the server at \(standby ?? address) does not run on \(dataDirectory): correct dataDirectory, host or port")
    // A primary and its standbys have one identifier, and may be on one machine; the file says what it is, when it was
    // written last, and which checkpoint is the newest.
    for _ in 0..<Self.controlFileTries {
      let before = try await controlFile()
      guard before.identifier == facts.systemIdentifier, isLive(dataDirectory) else { throw wrong }
      let told: [String?]
      do throws(StatementFailure) {
        told =
          try await connection.run(
            """
            SELECT CASE WHEN pg_is_in_recovery() THEN 5 ELSE 6 END,
              extract(epoch FROM pg_control_last_modified)::bigint, checkpoint_lsn
            FROM pg_control_system(), pg_control_checkpoint()
            """
          ).rows.first ?? []
      } catch { throw error.driverError("asking when the control file was written") }
      if told == before.state { return }
      let after = try await controlFile()
      if told == after.state { return }
    }
    throw wrong
  }

  /// A checkpoint may end between two looks, though hardly twice.
  private static let controlFileTries = 3
}
