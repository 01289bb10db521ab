import Core
import IO
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// A MariaDB server, a repository, a catalog, and the built program that follows the one into the other.
final class MariaDBFollowSite: @unchecked Sendable {
  // Used by one task at a time.
  let server: MariaDBServer
  let home: TemporaryDirectory
  private let program: String
  private(set) var follower: PipedProcess?
  private var writer: PipedProcess?

  init(settings: [String], options: String) async throws {
    home = try TemporaryDirectory("follow-maria")
    program = try CommandRun.product("salvor")
    server = try await MariaDBServer.start(settings: settings)
    _ = try await salvor(
      "init", "--file", home.file("first.yaml"), "--repository", home.file("vault"), "--password-file",
      home.file("password")
    ).succeeded()
    let runAs = MariaDBServer.owner == nil ? "" : ", runAs: mysql"
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
            mariadb: {dataDirectory: "\(server.data)", socket: "\(server.socket)", password: "file:\(server.passwordFile)", configFile: "\(server.configFile)"\(runAs)\(options)}
      """
    try Files.replace(home.file("salvor.yaml"), with: Array(catalog.utf8))
    try await server.sql(
      "CREATE TABLE shop.history (n BIGINT AUTO_INCREMENT PRIMARY KEY, stamp BIGINT, filler VARCHAR(100))",
      "GRANT REPLICATION SLAVE ON *.* TO '\(MariaDBServer.user)'@'localhost'")
  }

  /// Ends everything, whatever happened.
  static func with(
    settings: [String] = [], options: String = "", _ body: (MariaDBFollowSite) async throws -> Void
  ) async throws {
    let site = try await MariaDBFollowSite(settings: settings, options: options)
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
      "NO_COLOR": "1", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    ]
  }

  func salvor(_ words: String...) async throws -> CommandRun { try await salvor(words) }

  func salvor(_ words: [String]) async throws -> CommandRun {
    try await CommandRun([program] + words, in: home.path, environment: environment)
  }

  func json(_ words: String...) async throws -> JSONValue {
    let ran = try await salvor(words + ["-o", "json"])
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

  private var newestDurable: (file: String, offset: Int64)? {
    guard let line = follower?.errors.split(separator: "\n").last(where: { $0.contains("durable to binlog ") }),
      let found = line.firstMatch(of: /durable to binlog ([^ :]+):([0-9]+)/), let offset = Int64(found.2)
    else { return nil }
    return (String(found.1), offset)
  }

  /// Where the server's log ends.
  func position() async throws -> (file: String, offset: Int64) {
    let fields = try await server.sql("SHOW MASTER STATUS").split(separator: "\t")
    return (String(try #require(fields.first)), try #require(Int64(fields[1])))
  }

  /// Waits until all that was committed is durable.
  func settle() async throws {
    let target = try await position()
    try await until("\(target) is durable") { [self] in
      guard let newest = newestDurable else { return false }
      return newest >= target
    }
  }

  func until(_ what: String, seconds: Int = 60, _ isSo: () async throws -> Bool) async throws {
    for _ in 0..<seconds * 20 {
      if try await isSo() { return }
      try await Task.sleep(for: .milliseconds(50))
    }
    Issue.record("it never came to be that \(what): \(follower?.errors ?? "")")
  }

  // MARK: Work

  /// Puts rows in, each a transaction of its own.
  func insert(_ count: Int) async throws {
    try await server.sql(
      """
      DELIMITER //
      BEGIN NOT ATOMIC DECLARE i INT DEFAULT 0; WHILE i < \(count) DO
      INSERT INTO shop.history (stamp) VALUES (UNIX_TIMESTAMP()); SET i = i + 1; END WHILE; END//
      DELIMITER 
      """)
  }

  /// One client that commits row after row, and writes down each that was acknowledged, with the time.
  func startWriting() throws {
    let script = """
      exec 2>&1
      while echo 'INSERT INTO shop.history (stamp) VALUES (UNIX_TIMESTAMP()); SELECT LAST_INSERT_ID(), UNIX_TIMESTAMP(SYSDATE(6));'; do sleep 0.002; done \
      | mariadb --no-defaults --batch --skip-column-names --unbuffered --user=root --socket=\(server.socket)
      """
    writer = try PipedProcess(["bash", "-c", script])
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
        let fields = line.split(separator: "\t")
        guard fields.count == 2, let number = Int64(fields[0]), let seconds = Double(fields[1]) else { return nil }
        return Row(number: number, seconds: seconds)
      }
  }

  /// It ends by itself with the server.
  func endWriting() async throws {
    try await until("the client noticed") { writer?.isRunning != true }
    writer?.kill()
  }

  func killServer() async throws { try await server.stop(SIGKILL) }

  /// As when its disk is lost with it.
  func loseServer() async throws {
    try await killServer()
    try Files.removeTree(server.data)
  }

  func numbers() async throws -> [Int64] {
    try await server.sql("SELECT n FROM shop.history ORDER BY n").split(separator: "\n").compactMap { Int64($0) }
  }
}

extension MariaDBFollowSite {
  /// Takes the log out of the repository by stock restic, puts its pieces together, and holds them against the server's own
  /// files: the same, but for the bit that says that one is in use.
  ///
  /// - Returns: Names of the files.
  func compareFiles() async throws -> [String] {
    let access = ["RESTIC_REPOSITORY": home.file("vault"), "RESTIC_PASSWORD_FILE": home.file("password")]
    func restic(_ words: String...) async throws -> String {
      try await PostgreSQLServer.command("restic", ["--no-cache"] + words, asOwner: false, environment: access)
    }
    let listed = try await restic("snapshots", "--tag", "salvor-log", "--json")
    let snapshots = try CanonicalJSON.decode(JSONValue.self, from: Array(listed.utf8)).array ?? []
    for snapshot in snapshots {
      _ = try await restic("restore", try #require(snapshot["id"]?.string), "--target", home.file("pieces"))
    }
    let log = home.file("pieces") + "/shop-db/log/server-1"
    var names: [String] = []
    for file in try Files.names(in: log).map(\.lossyText).sorted() {
      var kept: [UInt8] = []
      for piece in try Files.names(in: "\(log)/\(file)").map(\.lossyText).sorted() {
        let (offset, bytes) = (try #require(Int(piece)), try Files.read("\(log)/\(file)/\(piece)"))
        if kept.count < offset + bytes.count {
          kept += [UInt8](repeating: 0, count: offset + bytes.count - kept.count)
        }
        kept.replaceSubrange(offset..<offset + bytes.count, with: bytes)
      }
      let name = String(try #require(file.split(separator: "@").first))
      var theirs = try Files.read("\(server.data)/\(name)")
      #expect(kept[21] == 0)
      theirs[21] &= ~1
      #expect(kept == theirs, "\(file)")
      // What it is kept for: stock programs read it.
      try Files.replace(home.file("stock"), with: kept)
      try await PostgreSQLServer.command(
        "mariadb-binlog", ["--verify-binlog-checksum", home.file("stock")], asOwner: false)
      names.append(name)
    }
    return names
  }
}
