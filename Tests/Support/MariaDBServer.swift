import Core
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// A MariaDB server of a test's own, on loopback, with users for people and for Salvor; ended by ``shutDown()``.
///
/// One data directory per process is made by mariadb-install-db and copied for each server. InnoDB's log is small and
/// nothing is flushed: a test's server need not survive a power failure. As root the server runs as the system's `mysql`.
package final class MariaDBServer: Sendable {
  package static let user = "salvor"
  package static let password = "not \"a\\ #secret' in a test"
  /// Exactly what the driver's page asks for.
  package static let grants = "RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, SELECT"

  private let directory: TemporaryDirectory
  package let port: UInt16
  /// The data directory; its parent is this server's alone.
  package var data: String { directory.file("data") }
  package var passwordFile: String { directory.file("password") }
  package var configFile: String { directory.file("my.cnf") }
  package var socket: String { directory.file("run/s.sock") }
  package var directoryPath: String { directory.path }

  private init(directory: TemporaryDirectory, port: UInt16) { (self.directory, self.port) = (directory, port) }

  /// - Parameters:
  ///   - settings: Lines for `my.cnf`; a later one wins.
  ///   - isLogged: Whether there is a binary log.
  package static func start(settings: [String] = [], isLogged: Bool = true) async throws -> MariaDBServer {
    let template = try await Template.shared.path()
    let server = MariaDBServer(directory: try TemporaryDirectory("maria", in: place), port: try Ports.next())
    do {
      try await PostgreSQLServer.command("cp", ["-a", "--reflink=auto", template, server.data], asOwner: false)
      try Files.replace(server.passwordFile, with: Array((password + "\n").utf8))
      try Files.createDirectory(server.directory.file("run"), mode: 0o755)
      if let owner { chown(server.directory.file("run"), owner.userID, owner.groupID) }
      var lines = [
        "[mariadbd]", "datadir=\(server.data)", "port=\(server.port)", "socket=\(server.socket)",
        "bind-address=127.0.0.1", "skip-name-resolve", "pid-file=\(server.directory.file("run"))/pid",
        // Each its own: at its start a server removes every temporary table that it finds there.
        "tmpdir=\(server.directory.file("run"))",
        "log-error=\(server.log)", "innodb-buffer-pool-size=16M", "innodb-log-file-size=4M",
        "innodb-flush-log-at-trx-commit=0", "innodb-flush-method=nosync", "performance-schema=0", "server-id=1",
        "innodb-buffer-pool-dump-at-shutdown=0", "aria-pagecache-buffer-size=8M", "key-buffer-size=8M",
      ]
      if isLogged { lines += ["log-bin=bin", "binlog-format=ROW"] }
      try Files.replace(server.configFile, with: Array((lines + settings).joined(separator: "\n").utf8 + [10]))
      chmod(server.configFile, 0o644)
      try await server.start()
    } catch {
      await server.shutDown()
      throw error
    }
    return server
  }

  package var log: String { directory.file("run/error.log") }

  package func start() async throws {
    try await PostgreSQLServer.command(
      "setsid",
      ["--fork"] + Self.asOwner
        + ["sh", "-c", "exec /usr/sbin/mariadbd --defaults-file=\"$0\" >/dev/null 2>&1", configFile], asOwner: false)
    for _ in 0..<600 {
      if (try? await sql("SELECT 1")) != nil { return }
      try await SystemTime().sleep(for: .milliseconds(50))
    }
    let text = (try? Files.read(log, limitBytes: 1 << 20)) ?? []
    throw PostgreSQLServer.CommandFailed(description: "mariadbd: \(String(decoding: text, as: UTF8.self))")
  }

  /// - Parameter signal: SIGTERM, or SIGKILL for a crash.
  package func stop(_ signal: Int32 = SIGTERM) async throws {
    for process in processes() { kill(process, signal) }
    for _ in 0..<1200 {
      if processes().isEmpty { return }
      try await SystemTime().sleep(for: .milliseconds(25))
    }
  }

  /// Runs statements as root, each on its own, and returns what they print: no headers, columns split by tabs.
  @discardableResult
  package func sql(_ statements: String..., database: String = "") async throws -> String {
    try await PostgreSQLServer.command(
      "mariadb",
      ["--no-defaults", "--batch", "--skip-column-names", "--socket=\(socket)", "--user=root", "--comments"]
        + (database.isEmpty ? [] : [database]), asOwner: false, input: statements.map { $0 + ";\n" }.joined())
  }

  /// Ends the server on the data directory, and any that a restore left beside it.
  package func shutDown() async {
    for process in processes() {
      kill(process, SIGKILL)
      for _ in 0..<500 where kill(process, 0) == 0 { usleep(10_000) }
    }
  }

  /// Servers that work in this one's directory: the live one, and those beside.
  package func processes() -> [pid_t] {
    let root = directory.path + "/"
    return ((try? Files.names(in: "/proc")) ?? []).compactMap { name in
      guard let number = pid_t(name.lossyText), ProcessStatus(pid: number)?.isAlive == true else { return nil }
      var buffer = [CChar](repeating: 0, count: 4097)
      guard readlink("/proc/\(number)/cwd", &buffer, 4096) > 0,
        String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self).hasPrefix(root),
        let command = try? Files.read("/proc/\(number)/comm", limitBytes: 4096),
        String(decoding: command, as: UTF8.self).hasPrefix("mariadbd")
      else { return nil }
      return number
    }
  }

  /// In memory where there is room: tests make a hundred servers.
  package static let place: String =
    ((try? Files.freeBytes(at: "/dev/shm")) ?? 0) > 8 << 30 ? "/dev/shm" : "/tmp"

  /// Who owns the servers' files; `nil` unless we are root.
  package static var owner: (userID: UInt32, groupID: UInt32)? {
    guard geteuid() == 0, let entry = getpwnam("mysql") else { return nil }
    return (entry.pointee.pw_uid, entry.pointee.pw_gid)
  }

  /// The words in front of a command that becomes the server's user.
  package static var asOwner: [String] {
    guard let owner else { return [] }
    return ["setpriv", "--reuid=\(owner.userID)", "--regid=\(owner.groupID)", "--clear-groups", "--"]
  }

  /// Ports below those the system hands out, each once per process: a server that is stopped finds its own again.
  private enum Ports {
    private static let last = Mutex(9_000 + UInt16(getpid() % 50) * 100)

    static func next() throws -> UInt16 {
      for _ in 0..<100 {
        let port = last.withLock { last in
          last += 1
          return last
        }
        let descriptor = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw SystemFailure("socket") }
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        address.sin_port = port.bigEndian
        let bound = withUnsafePointer(to: &address) { pointer in
          pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
          }
        }
        if bound { return port }
      }
      throw SystemFailure("bind", number: EADDRINUSE)
    }
  }

  /// Made once, when the first server starts.
  private actor Template {
    static let shared = Template()
    private static let directory = Mutex<TemporaryDirectory?>(nil)
    private var making: Task<TemporaryDirectory, any Error>?

    func path() async throws -> String {
      let task = making ?? Task { try await Self.make() }
      making = task
      return try await task.value.file("data")
    }

    private static func make() async throws -> TemporaryDirectory {
      let directory = try TemporaryDirectory("maria-template", in: MariaDBServer.place)
      // What a static holds is never freed.
      Self.directory.withLock { $0 = directory }
      atexit { Template.directory.withLock { if let held = $0 { try? Files.removeTree(held.path) } } }
      let data = directory.file("data")
      try Files.createDirectory(data, mode: 0o700)
      if let owner {
        chown(directory.path, owner.userID, owner.groupID)
        chown(data, owner.userID, owner.groupID)
      }
      try await PostgreSQLServer.command(
        "setsid",
        ["--wait"] + asOwner
          + [
            "mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db",
            "--skip-name-resolve", "--innodb-log-file-size=4M", "--datadir=\(data)", "--tmpdir=\(directory.path)",
          ], asOwner: false)
      // Statements as at a first start, without a server anybody could reach.
      let literal = MariaDBServer.password.map { $0 == "'" || $0 == "\\" ? "\\\($0)" : String($0) }.joined()
      let statements = ["localhost", "127.0.0.1"].flatMap { host in
        [
          "CREATE USER '\(MariaDBServer.user)'@'\(host)' IDENTIFIED BY '\(literal)';",
          "GRANT \(MariaDBServer.grants) ON *.* TO '\(MariaDBServer.user)'@'\(host)';",
        ]
      }
      try await PostgreSQLServer.command(
        "setsid",
        ["--wait"] + asOwner
          + [
            "/usr/sbin/mariadbd", "--no-defaults", "--bootstrap", "--datadir=\(data)", "--tmpdir=\(directory.path)",
            "--innodb-log-file-size=4M",
            "--log-warnings=0",
          ], asOwner: false,
        input: (["FLUSH PRIVILEGES;"] + statements + ["CREATE DATABASE shop;"]).joined(separator: "\n") + "\n")
      return directory
    }
  }
}
