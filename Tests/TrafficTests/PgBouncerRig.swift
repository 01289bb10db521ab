import Core
import IO
import StateKit
import TestSupport
import Testing
import TrafficContract
import TrafficPgBouncer

#if canImport(Glibc)
  import Glibc
#endif

/// A PgBouncer in front of two PostgreSQL servers that don't know each other.
final class PgBouncerRig: TrafficRig {
  let router: any TrafficRouter
  let port: UInt16
  private let servers: [BackendName: PostgreSQLServer]
  private let process: ServerProcess
  private let directory: TemporaryDirectory

  private init(
    _ router: any TrafficRouter, _ port: UInt16, _ servers: [BackendName: PostgreSQLServer], _ process: ServerProcess,
    _ directory: TemporaryDirectory
  ) {
    (self.router, self.port, self.servers, self.process, self.directory) = (router, port, servers, process, directory)
  }

  static func start() async throws -> PgBouncerRig {
    let servers: [BackendName: PostgreSQLServer] = [
      "a": try await PostgreSQLServer.start(), "b": try await PostgreSQLServer.start(),
    ]
    for server in servers.values { try await server.sql("CREATE TABLE arrivals (at timestamptz DEFAULT now())") }
    let directory = try TemporaryDirectory("pgbouncer")
    let port = try freePort()
    let settings = PgBouncerSettings(
      route: "bank-sql", host: "127.0.0.1", port: port, user: PostgreSQLServer.user,
      password: SecretReference("file:/in/a/test"),
      database: "bank", servers: servers.keys.sorted().map { ($0, "127.0.0.1", servers[$0]!.port) },
      file: directory.file("bank.ini"), parameters: "dbname=postgres")
    try Files.replace(settings.file, with: Array(PgBouncerRouter.text(settings, "a").utf8), mode: 0o644)
    let text = """
      [databases]
      %include \(settings.file)
      [pgbouncer]
      listen_addr = 127.0.0.1
      listen_port = \(port)
      unix_socket_dir =
      auth_type = scram-sha-256
      auth_file = \(directory.file("users"))
      admin_users = \(PostgreSQLServer.user)
      pool_mode = transaction
      max_client_conn = 50

      """
    try Files.replace(directory.file("pgbouncer.ini"), with: Array(text.utf8), mode: 0o644)
    try Files.replace(
      directory.file("users"), with: Array("\"\(PostgreSQLServer.user)\" \"\(PostgreSQLServer.password)\"\n".utf8),
      mode: 0o644)
    let process = try await BlockingPool.shared.run {
      try ServerProcess(
        port: port, ["pgbouncer"] + (geteuid() == 0 ? ["-u", "postgres"] : []) + [directory.file("pgbouncer.ini")])
    }
    let router = try PgBouncerRouter(settings, time: SystemTime()) { _ in Secret(PostgreSQLServer.password) }
    return PgBouncerRig(router, port, servers, process, directory)
  }

  func shutDown() async { for server in servers.values { await server.shutDown() } }

  private var words: [String] {
    ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "host=127.0.0.1 port=\(port) user=\(PostgreSQLServer.user) dbname=bank"]
  }

  private static let arrival = "INSERT INTO arrivals DEFAULT VALUES RETURNING current_setting('port')"

  private func name(_ text: String) -> BackendName? {
    servers.first { "\($0.value.port)" == text.split(whereSeparator: \.isNewline).first.map(String.init) }?.key
  }

  func request() async throws -> BackendName? { try await request(waiting: 2) }

  /// - Parameter seconds: How long a client waits.
  func request(waiting seconds: Int) async throws -> BackendName? {
    let run = try await CommandRun(
      ["timeout", "\(seconds)"] + words + ["-c", Self.arrival], environment: ["PGPASSWORD": PostgreSQLServer.password])
    return run.status == 0 ? name(run.output) : nil
  }

  func arrivals() async throws -> [BackendName: Int] {
    var result: [BackendName: Int] = [:]
    for (name, server) in servers { result[name] = Int(try await server.sql("SELECT count(*) FROM arrivals").trimmed) }
    return result
  }

  func session() async throws -> any RigSession {
    let process = try PipedProcess(words, environment: ["PGPASSWORD": PostgreSQLServer.password])
    process.write(Array("BEGIN;\n\(Self.arrival);\nSELECT pg_sleep(600);\n".utf8))
    process.end()
    for _ in 0..<3000 {
      if let backend = name(String(decoding: process.output, as: UTF8.self)) { return SQLSession(process, backend) }
      try await SystemTime().sleep(for: .milliseconds(10))
    }
    throw CommandRun.Failed(description: "no session: \(process.errors)")
  }

  func freeze(_ isFrozen: Bool) async throws { try await HTTPRig.freeze(process.pid, isFrozen) }
}

extension String {
  fileprivate var trimmed: String { filter { !$0.isWhitespace } }
}

/// A transaction that doesn't end.
private final class SQLSession: RigSession {
  let backend: BackendName
  private let process: PipedProcess

  init(_ process: PipedProcess, _ backend: BackendName) { (self.process, self.backend) = (process, backend) }

  func ends() async -> Bool {
    for _ in 0..<3000 where process.isRunning { try? await SystemTime().sleep(for: .milliseconds(10)) }
    return !process.isRunning
  }

  func isOpen() async -> Bool { process.isRunning }

  func end() async { process.kill() }
}
