import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A real Redis of a test's own on loopback, with its data in a directory of its own; ended by its pid.
///
/// Its configuration is a file that a driver can start it again with. All calls block; run them on ``IO/BlockingPool``.
package final class RedisServer: Sendable {
  package struct Settings: Sendable {
    package var appendOnly = true
    /// Sends snapshots to replicas without a file in between.
    package var isDiskless = true
    /// The default user's password.
    package var password: String?
    /// Lines for the configuration, such as `user salvor on >secret …`.
    package var more: [String] = []

    package init() {}
  }

  package let directory: TemporaryDirectory
  package let port: UInt16
  package var dataDirectory: String { directory.file("data") }
  package var configFile: String { directory.file("redis.conf") }
  package var logFile: String { directory.file("redis.log") }

  /// Writes the configuration and starts the server; returns when it answers.
  package init(_ settings: Settings = Settings()) throws {
    let directory = try TemporaryDirectory("redis")
    self.directory = directory
    try Files.createDirectory(directory.file("data"), mode: 0o755)
    var attempts = 5
    while true {
      // Between finding a free port and taking it somebody else may.
      let port = try freePort()
      try Self.configure(settings, directory, port)
      attempts -= 1
      do {
        try Self.start(directory, port)
        self.port = port
        return
      } catch  where attempts > 0 {
        try Files.removeTree(directory.file("redis.log"))
      }
    }
  }

  private static func configure(_ settings: Settings, _ directory: TemporaryDirectory, _ port: UInt16) throws {
    var lines = [
      "bind 127.0.0.1", "port \(port)", "dir \(directory.file("data"))", "daemonize yes",
      "pidfile \(directory.file("redis.pid"))", "logfile \(directory.file("redis.log"))", "save \"\"",
      "appendonly \(settings.appendOnly ? "yes" : "no")", "repl-diskless-sync \(settings.isDiskless ? "yes" : "no")",
      "repl-diskless-sync-delay 0", "enable-debug-command local",
    ]
    if !settings.appendOnly { lines.append("save 3600 1") }
    if let password = settings.password { lines.append("requirepass \(password)") }
    try Files.replace(
      directory.file("redis.conf"), with: Array((lines + settings.more).joined(separator: "\n").utf8) + [10])
  }

  deinit { stop() }

  package func start() throws { try Self.start(directory, port) }

  private static func start(_ directory: TemporaryDirectory, _ port: UInt16) throws {
    var arguments: [UnsafeMutablePointer<CChar>?] = [strdup("redis-server"), strdup(directory.file("redis.conf")), nil]
    defer { for argument in arguments { free(argument) } }
    // Threads of a pool block signals, and a child would inherit that: SIGTERM must reach the server.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    var child: pid_t = 0
    let status = posix_spawnp(&child, "redis-server", nil, &attributes, &arguments, environ)
    guard status == 0 else { throw SystemFailure("spawn", path: "redis-server", number: status) }
    waitpid(child, nil, 0)
    for _ in 0..<4000 {
      // The pid is written once the port is taken, so whoever answers is this server.
      if pid(directory) != nil, answers(port) { return }
      let log = (try? Files.read(directory.file("redis.log"))).map { String(decoding: $0, as: UTF8.self) } ?? ""
      if log.contains("Address already in use") {
        throw SystemFailure("bind", path: "port \(port)", number: EADDRINUSE)
      }
      usleep(5000)
    }
    throw SystemFailure("connect", path: "redis-server on port \(port)", number: ETIMEDOUT)
  }

  /// The pid, while the server runs.
  package var pid: pid_t? { Self.pid(directory) }

  private static func pid(_ directory: TemporaryDirectory) -> pid_t? {
    guard let bytes = try? Files.read(directory.file("redis.pid"), limitBytes: 32),
      let number = pid_t(String(decoding: bytes.filter { $0 > 32 }, as: UTF8.self)), isRunning(number)
    else { return nil }
    return number
  }

  /// Ends the server and waits until it is gone; `SIGKILL` is a crash.
  package func stop(_ signal: Int32 = SIGTERM) {
    guard let pid else { return }
    kill(pid, signal)
    for _ in 0..<2000 where Self.isRunning(pid) { usleep(5000) }
    if Self.isRunning(pid) { kill(pid, SIGKILL) }
  }

  private static func isRunning(_ pid: pid_t) -> Bool {
    guard let bytes = try? Files.read("/proc/\(pid)/stat", limitBytes: 4096) else { return false }
    let text = String(decoding: bytes, as: UTF8.self)
    // A zombie whose parent is slow to collect it doesn't run.
    return text.contains("redis") && !text.contains(") Z ")
  }

  /// Any answer to `PING` will do: one that wants a password first is up as well.
  private static func answers(_ port: UInt16) -> Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    address.sin_port = port.bigEndian
    let isConnected = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
      }
    }
    guard isConnected, send(descriptor, "PING\r\n", 6, Int32(MSG_NOSIGNAL)) == 6 else { return false }
    var answer = [UInt8](repeating: 0, count: 64)
    let count = recv(descriptor, &answer, answer.count, 0)
    return count > 0 && !String(decoding: answer[..<count], as: UTF8.self).hasPrefix("-LOADING")
  }
}
