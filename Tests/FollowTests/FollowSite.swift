import Core
import IO
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// A PostgreSQL server, a repository, a catalog, and the built program that follows the one into the other.
final class FollowSite: @unchecked Sendable {
  // Used by one task at a time.
  let server: PostgreSQLServer
  let home: TemporaryDirectory
  private let program: String
  private(set) var follower: PipedProcess?
  private var writer: PipedProcess?
  /// Where the server's `archive_command` looks; `nil` if the log is had by replication.
  let archived: TemporaryDirectory?

  init(settings: [String] = [], archiving: Bool = false) async throws {
    home = try TemporaryDirectory("follow")
    archived = archiving ? try TemporaryDirectory("archived") : nil
    if let archived { chmod(archived.path, 0o755) }
    let settings = settings + (archiving ? ["archive_mode = on", "max_wal_senders = 0"] : [])
    program = try CommandRun.product("salvor")
    server = try await PostgreSQLServer.start(settings: ["track_commit_timestamp = on"] + settings)
    _ = try await salvor(
      "init", "--file", home.file("first.yaml"), "--repository", home.file("vault"), "--password-file",
      home.file("password")
    ).succeeded()
    let runAs = PostgreSQLServer.owner == nil ? "" : ", runAs: postgres"
    let catalog = """
      apiVersion: salvor.dev/v1
      kind: Repository
      metadata: {name: main}
      spec: {location: "local:\(home.file("vault"))", password: "file:\(home.file("password"))"}
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: shop}
      spec:
        stores:
          - name: shop-db
            postgresql: {dataDirectory: "\(server.data)", port: \(server.port), password: "file:\(server.passwordFile)"\(runAs)\(archived.map { ", archiveDirectory: \"\($0.file("shop-db"))\"" } ?? "")}
      """
    try Files.replace(home.file("salvor.yaml"), with: Array(catalog.utf8))
    try await server.sql("CREATE TABLE history (n bigserial PRIMARY KEY, filler text DEFAULT repeat('x', 100))")
  }

  /// Ends everything, whatever happened.
  static func with(
    settings: [String] = [], archiving: Bool = false, _ body: (FollowSite) async throws -> Void
  ) async throws {
    let site = try await FollowSite(settings: settings, archiving: archiving)
    do { try await body(site) } catch {
      print(site.follower?.errors ?? "")
      await site.end()
      throw error
    }
    await site.end()
  }

  private func end() async {
    follower?.kill()
    writer?.kill()
    await server.shutDown()
  }

  private var environment: [String: String] {
    [
      "HOME": home.path, "SALVOR_STATE": home.file("state"), "SALVOR_CATALOG": home.file("salvor.yaml"),
      "NO_COLOR": "1",
      "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    ]
  }

  func salvor(_ words: String...) async throws -> CommandRun {
    try await CommandRun([program] + words, in: home.path, environment: environment)
  }

  /// `salvor vault`, on the site's repository.
  func vault(_ words: String...) async throws -> CommandRun {
    try await CommandRun(
      [program, "vault"] + words + ["-r", home.file("vault"), "--password-file", home.file("password")], in: home.path,
      environment: environment)
  }

  func json(_ words: String...) async throws -> JSONValue {
    let ran = try await CommandRun([program] + words + ["-o", "json"], in: home.path, environment: environment)
    return try CanonicalJSON.decode(JSONValue.self, from: Array(ran.output.utf8))
  }

  // MARK: Following

  /// Returns once the first stretch is durable.
  func follow(_ words: String...) async throws {
    let started = try PipedProcess([program, "follow"] + words, in: home.path, environment: environment)
    follower = started
    try await until("the follower writes") { started.errors.contains("durable to") || !started.isRunning }
    try #require(started.isRunning, "\(started.errors)")
  }

  /// - Returns: Its exit status.
  func stopFollowing() -> Int32 {
    follower?.terminate()
    return follower?.wait() ?? -1
  }

  var newestDurable: String? {
    follower?.errors.split(separator: "\n").last { $0.contains("durable to lsn ") }.flatMap { line in
      line.split(separator: " ").drop { $0 != "lsn" }.dropFirst().first.map { String($0.dropLast()) }
    }
  }

  /// Waits until all that was committed is durable.
  func settle() async throws {
    let target = try await server.sql(
      archived == nil ? "SELECT pg_current_wal_flush_lsn()" : "SELECT pg_switch_wal()")
    try await until("\(target) is durable") { [server, self] in
      guard let newest = newestDurable else { return false }
      return try await server.sql("SELECT '\(newest)'::pg_lsn >= '\(target)'::pg_lsn") == "t"
    }
  }

  func until(_ what: String, seconds: Int = 60, _ isSo: () async throws -> Bool) async throws {
    for _ in 0..<seconds * 20 {
      if try await isSo() { return }
      try await Task.sleep(for: .milliseconds(50))
    }
    Issue.record("it never came to be that \(what): \(follower?.errors ?? "")")
  }

  /// The line of the page, for this site.
  func archive() async throws {
    let place = try #require(archived).file("shop-db")
    let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
    let page = String(decoding: try Files.read("/\(root)/docs/operating/continuous.md"), as: UTF8.self)
    let line = try #require(page.split(separator: "\n").first { $0.hasPrefix("archive_command = ") })
    try await server.sql(
      "ALTER SYSTEM SET \(line.replacing("/var/lib/salvor/archive/ledger-db", with: place))", "SELECT pg_reload_conf()")
  }

  /// How many segments the server was told are kept.
  func archivedCount() async throws -> Int {
    Int(try await server.sql("SELECT archived_count FROM pg_stat_archiver")) ?? -1
  }

  // MARK: Work

  /// One client that commits row after row, and writes down each that was acknowledged, with the time.
  func startWriting() throws {
    let script = """
      exec 2>&1
      while echo 'INSERT INTO history DEFAULT VALUES RETURNING n, extract(epoch FROM clock_timestamp());'; do sleep 0.002; done \
      | stdbuf -oL psql -XAtq "host=127.0.0.1 port=\(server.port) user=\(PostgreSQLServer.user) dbname=postgres"
      """
    writer = try PipedProcess(
      ["bash", "-c", script], environment: ["PGPASSWORD": PostgreSQLServer.password])
  }

  struct Row: Equatable {
    var number: Int64
    var seconds: Double
  }

  /// What the client was told is committed.
  var acknowledged: [Row] {
    String(decoding: writer?.output ?? [], as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
      // The last line may be half a line.
      .dropLast().compactMap { line in
        let fields = line.split(separator: "|")
        guard fields.count == 2, let number = Int64(fields[0]), let seconds = Double(fields[1]) else { return nil }
        return Row(number: number, seconds: seconds)
      }
  }

  /// It ends by itself with the server.
  func endWriting() async throws {
    try await until("the client noticed") { writer?.isRunning != true }
    writer?.kill()
  }

  /// Every process of the server at once, as when a machine loses its power.
  func killServer() throws {
    for postmaster in server.processes() {
      let children = try Files.read("/proc/\(postmaster)/task/\(postmaster)/children", limitBytes: 1 << 16)
      kill(postmaster, SIGKILL)
      for child in String(decoding: children, as: UTF8.self).split(separator: " ").compactMap({ pid_t($0) }) {
        kill(child, SIGKILL)
      }
      for _ in 0..<500 where kill(postmaster, 0) == 0 { usleep(10_000) }
    }
  }

  /// As when its disk is lost with it.
  func loseServer() throws {
    try killServer()
    try Files.removeTree(server.data)
  }

  func numbers() async throws -> [Int64] {
    try await server.sql("SELECT n FROM history ORDER BY n").split(separator: "\n").compactMap { Int64($0) }
  }
}
