import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A real RabbitMQ node of a test's own, on loopback, with a port mapper of its own; both ended by their pids.
///
/// Its environment is a file that a driver can start it again with. All calls block; run them on ``IO/BlockingPool``.
package final class RabbitMQServer: Sendable {
  package static let binary = "/usr/lib/rabbitmq/bin/rabbitmq-server"
  package static let node = "rabbit@localhost"

  /// Threads that have nothing to do give their processor away at once.
  private static let calm = "+sbwt none +sbwtdcpu none +sbwtdio none"

  package let directory: TemporaryDirectory
  package let port: UInt16
  package let managementPort: UInt16
  /// Of the port mapper.
  package let mapperPort: UInt16
  private let mapper: pid_t

  package var mnesia: String { directory.file("mnesia") }
  package var dataDirectory: String { directory.file("mnesia/\(Self.node)") }
  package var configFile: String { directory.file("env.conf") }

  /// - Parameters:
  ///   - plugins: Such as `rabbitmq_management`; without any it starts sooner.
  ///   - settings: More lines of `rabbitmq.conf`.
  ///   - arguments: More arguments of Erlang's.
  package init(plugins: [String] = [], settings: [String] = [], arguments: String = "") throws {
    let directory = try TemporaryDirectory("rabbitmq")
    self.directory = directory
    var attempts = 5
    while true {
      // Between finding free ports and taking them somebody else may.
      let ports = try (0..<4).map { _ in try freePort() }
      attempts -= 1
      let mapper = try Self.startMapper(ports[3])
      do {
        try Self.configure(directory, ports, plugins, settings, arguments)
        try Self.start(directory, ports[0])
        (port, managementPort, mapperPort, self.mapper) = (ports[0], ports[1], ports[3], mapper)
        return
      } catch {
        kill(mapper, SIGKILL)
        guard attempts > 0 else { throw error }
        try Files.removeTree(directory.file("mnesia"))
      }
    }
  }

  deinit { stop() }

  /// Ends the server and its port mapper, for good. Called once.
  package func shutDown() {
    stop()
    kill(mapper, SIGKILL)
  }

  private static func startMapper(_ port: UInt16) throws -> pid_t {
    let process = try GatedProcess(
      .init(
        path: "/usr/bin/env", arguments: ["env", "epmd", "-port", "\(port)", "-address", "127.0.0.1"],
        environment: ["PATH": "/usr/local/bin:/usr/bin:/bin"], workingDirectory: "/",
        output: try File("/dev/null", O_WRONLY), isDetached: true))
    try process.begin()
    return process.pid
  }

  private static func configure(
    _ directory: TemporaryDirectory, _ ports: [UInt16], _ plugins: [String], _ settings: [String], _ arguments: String
  ) throws {
    let environment = [
      "HOME=\(directory.path)", "NODENAME=\(node)", "MNESIA_BASE=\(directory.file("mnesia"))",
      "LOG_BASE=\(directory.path)", "LOGS=\(directory.file("log"))", "PID_FILE=\(directory.file("pid"))",
      "ENABLED_PLUGINS_FILE=\(directory.file("plugins"))", "CONFIG_FILE=\(directory.file("rabbitmq.conf"))",
      "ADVANCED_CONFIG_FILE=\(directory.file("none.config"))", "DIST_PORT=\(ports[2])",
      "SERVER_ADDITIONAL_ERL_ARGS=\"-kernel inet_dist_use_interface {127,0,0,1} \(calm) \(arguments)\"",
      "export ERL_EPMD_PORT=\(ports[3])", "export ERL_EPMD_ADDRESS=127.0.0.1",
    ]
    let lines =
      [
        "listeners.tcp.1 = 127.0.0.1:\(ports[0])", "management.tcp.ip = 127.0.0.1",
        "management.tcp.port = \(ports[1])",
        // A client on a busy machine may need its time.
        "handshake_timeout = 300000",
      ] + settings
    let files = [
      ("env.conf", environment.joined(separator: "\n")),
      ("rabbitmq.conf", lines.filter { !plugins.isEmpty || !$0.hasPrefix("management") }.joined(separator: "\n")),
      ("plugins", "[\(plugins.joined(separator: ","))]."), (".erlang.cookie", "COOKIE\(ports[3])"), ("log", ""),
    ]
    for (name, text) in files { try Files.replace(directory.file(name), with: Array(text.utf8) + [10]) }
    // Erlang wants a cookie that is all of a file.
    try Files.replace(directory.file(".erlang.cookie"), with: Array("COOKIE\(ports[3])".utf8))
    try Files.createDirectory(directory.file("mnesia"), mode: 0o755)
    guard let account = Account(named: "rabbitmq") else { throw SystemFailure("getpwnam", path: "rabbitmq") }
    for path in [directory.path] + (try Files.names(in: directory.path).map { directory.file($0.lossyText) }) {
      guard chown(path, account.user, account.group) == 0 else { throw SystemFailure("chown", path: path) }
    }
  }

  package func start() throws { try Self.start(directory, port) }

  private static func start(_ directory: TemporaryDirectory, _ port: UInt16) throws {
    let process = try GatedProcess(
      .init(
        path: "/usr/bin/env",
        arguments: ["env", "RABBITMQ_CONF_ENV_FILE=\(directory.file("env.conf"))", binary],
        environment: ["PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": directory.path],
        workingDirectory: "/", output: try File(directory.file("out"), O_WRONLY | O_CREAT | O_TRUNC),
        account: Account(named: "rabbitmq"), isDetached: true))
    try process.begin()
    for _ in 0..<30_000 {
      if pid(directory) != nil, answers(port) { return }
      if ProcessStatus(pid: process.pid)?.isAlive != true { break }
      usleep(10_000)
    }
    kill(process.pid, SIGKILL)
    if let pid = pid(directory) { kill(pid, SIGKILL) }
    let said = (try? Files.read(directory.file("out"))).map { String(decoding: $0.suffix(2000), as: UTF8.self) } ?? ""
    throw SystemFailure("connect", path: "rabbitmq on port \(port): \(said)", number: ETIMEDOUT)
  }

  package var log: String {
    (try? Files.read(directory.file("log"))).map { String(decoding: $0, as: UTF8.self) } ?? ""
  }

  /// The pid, while the server runs.
  package var pid: pid_t? { Self.pid(directory) }

  private static func pid(_ directory: TemporaryDirectory) -> pid_t? {
    guard let bytes = try? Files.read(directory.file("pid"), limitBytes: 32),
      let number = pid_t(String(decoding: bytes.filter { $0 > 32 }, as: UTF8.self)),
      ProcessStatus(pid: number)?.isAlive == true,
      let words = try? Files.read("/proc/\(number)/cmdline", limitBytes: 65_536),
      words.split(separator: 0).contains(where: { $0.elementsEqual(directory.path.utf8) })
    else { return nil }
    return number
  }

  /// Ends the server and waits until it is gone; `SIGKILL` is a crash.
  package func stop(_ signal: Int32 = SIGTERM) {
    guard let pid else { return }
    kill(pid, signal)
    for _ in 0..<6000 where ProcessStatus(pid: pid)?.isAlive == true { usleep(10_000) }
    if ProcessStatus(pid: pid)?.isAlive == true { kill(pid, SIGKILL) }
  }

  private static func answers(_ port: UInt16) -> Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    address.sin_port = port.bigEndian
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
      }
    }
  }
}
