import Core
import IO
import Subprocess
import Synchronization
import SystemPackage

#if canImport(Glibc)
  import Glibc
#endif

/// A PostgreSQL server of a test's own, on loopback, with a password; ended by ``shutDown()``.
///
/// One cluster per process is made by initdb and copied for each server. Segments of the log are 1 MiB, pages have
/// checksums, and nothing is flushed: a test's cluster need not survive a power failure. As root the server runs as the
/// system's `postgres`.
package final class PostgreSQLServer: Sendable {
  package static let user = "postgres"
  package static let password = "not-a-secret-in-a-test"

  private let directory: TemporaryDirectory
  package let port: UInt16
  /// The data directory; its parent is this server's alone.
  package var data: String { directory.file("data") }
  /// The password, as a line in a file.
  package var passwordFile: String { directory.file("password") }
  /// Another directory beside the data, such as for a tablespace; the server's user owns it.
  package func ownDirectory(_ name: String) throws -> String {
    let path = directory.file(name)
    try Files.createDirectory(path, mode: 0o700)
    if let owner = Self.owner { chown(path, owner.userID, owner.groupID) }
    return path
  }

  private init(directory: TemporaryDirectory, port: UInt16) { (self.directory, self.port) = (directory, port) }

  /// - Parameter settings: Lines for `postgresql.conf`.
  package static func start(settings: [String] = []) async throws -> PostgreSQLServer {
    let template = try await Template.shared.path()
    let server = PostgreSQLServer(directory: try TemporaryDirectory("pg", in: place), port: try Ports.next())
    try await command("cp", ["-a", "--reflink=auto", template, server.data], asOwner: false)
    try Files.replace(server.passwordFile, with: Array((password + "\n").utf8))
    let lines = [
      "listen_addresses = '127.0.0.1'", "port = \(server.port)", "unix_socket_directories = ''", "fsync = off",
      "shared_buffers = 16MB", "max_connections = 60", "max_wal_size = 64MB", "min_wal_size = 8MB",
      "log_min_messages = warning",
    ]
    let file = try File(server.data + "/postgresql.conf", O_WRONLY | O_APPEND)
    try Array((lines + settings).joined(separator: "\n").utf8 + [10]).withUnsafeBytes { try file.write($0) }
    do {
      try await server.start()
    } catch {
      await server.shutDown()
      throw error
    }
    return server
  }

  /// A copy of a running server, not started, with a port of its own.
  ///
  /// - Parameter passwordFile: In the form of `.pgpass`, the server's user's own.
  package static func copy(of other: PostgreSQLServer, passwordFile: String) async throws -> PostgreSQLServer {
    let server = PostgreSQLServer(directory: try TemporaryDirectory("pg", in: place), port: try Ports.next())
    if let owner { chown(server.directory.path, owner.userID, owner.groupID) }
    try await command(
      program("pg_basebackup"),
      [
        "-D", server.data, "-X", "stream", "-c", "fast", "-d",
        "host=127.0.0.1 port=\(other.port) user=\(user) passfile=\(passwordFile)",
      ], asOwner: true)
    let file = try File(server.data + "/postgresql.conf", O_WRONLY | O_APPEND)
    try Array("port = \(server.port)\n".utf8).withUnsafeBytes { try file.write($0) }
    return server
  }

  /// A standby of this server, serving.
  package func standby() async throws -> PostgreSQLServer {
    let passwords = directory.file("pgpass-server")
    try Files.replace(passwords, with: Array("*:*:*:\(Self.user):\(Self.password)\n".utf8))
    if let owner = Self.owner { chown(passwords, owner.userID, owner.groupID) }
    let standby = try await Self.copy(of: self, passwordFile: passwords)
    do {
      let signal = standby.data + "/standby.signal"
      try Files.replace(signal, with: [])
      if let owner = Self.owner { chown(signal, owner.userID, owner.groupID) }
      let file = try File(standby.data + "/postgresql.conf", O_WRONLY | O_APPEND)
      let line = "primary_conninfo = 'host=127.0.0.1 port=\(port) user=\(Self.user) passfile=\(passwords)'\n"
      try Array(line.utf8).withUnsafeBytes { try file.write($0) }
      try await standby.start()
    } catch {
      await standby.shutDown()
      throw error
    }
    return standby
  }

  package func start() async throws {
    try await Self.command(
      Self.program("pg_ctl"), ["-D", data, "-l", data + "/startup.log", "-w", "-t", "30", "start"], asOwner: true)
  }

  /// - Parameter mode: `fast`, or `immediate` for a crash.
  package func stop(mode: String = "fast") async throws {
    try await Self.command(Self.program("pg_ctl"), ["-D", data, "-m", mode, "-w", "-t", "30", "stop"], asOwner: true)
  }

  /// Runs statements in psql, each on its own, and returns what they print: no headers, columns split by `|`.
  @discardableResult
  package func sql(_ statements: String..., database: String = "postgres") async throws -> String {
    try await Self.command(
      Self.program("psql"),
      ["-XAtq", "-v", "ON_ERROR_STOP=1"] + statements.flatMap { ["-c", $0] }
        + ["host=127.0.0.1 port=\(port) user=\(Self.user) dbname=\(database) passfile=\(directory.file("pgpass"))"],
      asOwner: false, environment: ["PGPASSWORD": Self.password])
  }

  /// Ends the server on the data directory, and any that a restore left beside it.
  package func shutDown() async {
    for process in processes() {
      kill(process, SIGQUIT)
      for _ in 0..<500 where kill(process, 0) == 0 { usleep(10_000) }
    }
  }

  /// Postmasters whose pid files are in this server's directory: the live one, and those beside.
  package func processes() -> [pid_t] {
    var places = [data]
    for name in (try? Files.names(in: directory.path).map(\.lossyText)) ?? [] where name.hasPrefix(".salvor-") {
      places += ["beside", "kept", "incomplete"].map { "\(directory.path)/\(name)/\($0)" }
    }
    return places.compactMap { place in
      guard let bytes = try? Files.read(place + "/postmaster.pid", limitBytes: 65_536),
        let line = String(decoding: bytes, as: UTF8.self).split(separator: "\n").first
      else { return nil }
      return pid_t(line).flatMap { kill($0, 0) == 0 ? $0 : nil }
    }
  }

  /// In memory where there is room: a cluster is a thousand files, and tests make a hundred clusters.
  private static let place: String =
    ((try? Files.freeBytes(at: "/dev/shm")) ?? 0) > 8 << 30 ? "/dev/shm" : "/tmp"

  // MARK: Programs

  package static func program(_ name: String) throws -> String {
    let versions = try Files.names(in: "/usr/lib/postgresql").map(\.lossyText).sorted {
      (Int($0) ?? 0) > (Int($1) ?? 0)
    }
    for version in versions {
      let path = "/usr/lib/postgresql/\(version)/bin/\(name)"
      if access(path, X_OK) == 0 { return path }
    }
    throw SystemFailure("open", path: "/usr/lib/postgresql/*/bin/\(name)", number: ENOENT)
  }

  /// Who owns the servers' files; `nil` unless we are root.
  package static var owner: (userID: UInt32, groupID: UInt32)? {
    guard geteuid() == 0, let entry = getpwnam("postgres") else { return nil }
    return (entry.pointee.pw_uid, entry.pointee.pw_gid)
  }

  @discardableResult
  package static func command(
    _ executable: String, _ arguments: [String], asOwner: Bool, environment: [String: String] = [:], input: String = ""
  ) async throws -> String {
    var changes: [Environment.Key: String?] = [:]
    for (name, value) in environment { if let key = Environment.Key(rawValue: name) { changes[key] = value } }
    var line = [executable] + arguments
    if asOwner, let owner {
      // Subprocess's own options for it can hang: they change the user between clone3(2) and exec.
      line = ["setpriv", "--reuid=\(owner.userID)", "--regid=\(owner.groupID)", "--clear-groups", "--"] + line
    }
    var options = PlatformOptions()
    options.createSession = true
    // Subprocess ends the whole program if a child doesn't read what is written to it.
    let given = try File.unnamed(Array(input.utf8))
    let result = try await Subprocess.run(
      line[0].contains("/") ? .path(FilePath(line[0])) : .name(line[0]), arguments: Arguments(Array(line.dropFirst())),
      environment: .inherit.updating(changes), workingDirectory: "/", platformOptions: options,
      input: .fileDescriptor(.init(rawValue: given.descriptor), closeAfterSpawningProcess: false),
      output: .bytes(limit: 1 << 24), error: .combinedWithOutput)
    let text = String(decoding: result.standardOutput, as: UTF8.self)
    guard result.terminationStatus.isSuccess else {
      throw CommandFailed(description: "\(executable) \(arguments): \(result.terminationStatus): \(text)")
    }
    return text.hasSuffix("\n") ? String(text.dropLast()) : text
  }

  package struct CommandFailed: Error, CustomStringConvertible { package let description: String }

  /// Ports below those the system hands out, each once per process: a server that is stopped finds its own again.
  private enum Ports {
    private static let last = Mutex(15_000 + UInt16(getpid() % 80) * 200)

    static func next() throws -> UInt16 {
      for _ in 0..<200 {
        let port = last.withLock { last in
          last += 1
          return last
        }
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
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
      let directory = try TemporaryDirectory("pg-template", in: PostgreSQLServer.place)
      // What a static holds is never freed.
      Self.directory.withLock { $0 = directory }
      atexit { Template.directory.withLock { if let held = $0 { try? Files.removeTree(held.path) } } }
      if let owner { chown(directory.path, owner.userID, owner.groupID) }
      let secret = directory.file("initial-password")
      try Files.replace(secret, with: Array(PostgreSQLServer.password.utf8), mode: 0o644)
      chmod(secret, 0o644)
      try await command(
        program("initdb"),
        [
          "-D", directory.file("data"), "-U", PostgreSQLServer.user, "--pwfile", secret, "--auth=scram-sha-256",
          "--encoding=UTF8", "--locale=C", "--wal-segsize=1", "--data-checksums", "--no-sync", "--no-instructions",
        ], asOwner: true)
      // A third of the files, and nothing ever connects to it. What is created comes from template0.
      try await command(
        program("postgres"), ["--single", "-D", directory.file("data"), "postgres"], asOwner: true,
        input: "ALTER DATABASE template1 IS_TEMPLATE false;\nDROP DATABASE template1;\n")
      return directory
    }
  }
}
