import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A real NATS server with JetStream of a test's own, on loopback; ended by its pid.
///
/// Its configuration is a file that a driver can start it again with. All calls block; run them on ``IO/BlockingPool``.
package final class NATSServer: Sendable {
  package let directory: TemporaryDirectory
  package let port: UInt16
  package var storeDirectory: String { directory.file("store") }
  package var configFile: String { directory.file("nats.conf") }

  /// - Parameter more: Lines for the configuration, such as `authorization { … }`.
  package init(_ more: [String] = []) throws {
    let directory = try TemporaryDirectory("nats")
    self.directory = directory
    try Files.createDirectory(directory.file("store"), mode: 0o755)
    var attempts = 5
    while true {
      // Between finding a free port and taking it somebody else may.
      let port = try freePort()
      let lines =
        [
          "host: \"127.0.0.1\"", "port: \(port)", "pid_file: \"\(directory.file("nats.pid"))\"",
          "log_file: \"\(directory.file("nats.log"))\"", "jetstream { store_dir: \"\(directory.file("store"))\" }",
        ] + more
      try Files.replace(directory.file("nats.conf"), with: Array(lines.joined(separator: "\n").utf8) + [10])
      attempts -= 1
      do {
        try Self.start(directory, port)
        self.port = port
        return
      } catch  where attempts > 0 {
        try Files.removeTree(directory.file("nats.log"))
      }
    }
  }

  deinit { stop() }

  package func start() throws { try Self.start(directory, port) }

  private static func start(_ directory: TemporaryDirectory, _ port: UInt16) throws {
    try Files.removeTree(directory.file("nats.pid"))
    let process = try GatedProcess(
      .init(
        path: "/usr/bin/env", arguments: ["env", "nats-server", "-c", directory.file("nats.conf")],
        environment: ["PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"], workingDirectory: "/",
        output: try File("/dev/null", O_WRONLY), isDetached: true))
    try process.begin()
    for _ in 0..<4000 {
      if pid(directory) != nil, answers(port) { return }
      if log(directory).contains("[FTL]") { break }
      usleep(5000)
    }
    kill(process.pid, SIGKILL)
    throw SystemFailure(
      "connect", path: "nats-server on port \(port): \(log(directory).suffix(400))", number: ETIMEDOUT)
  }

  package var log: String { Self.log(directory) }

  private static func log(_ directory: TemporaryDirectory) -> String {
    (try? Files.read(directory.file("nats.log"))).map { String(decoding: $0, as: UTF8.self) } ?? ""
  }

  /// The pid, while the server runs.
  package var pid: pid_t? { Self.pid(directory) }

  private static func pid(_ directory: TemporaryDirectory) -> pid_t? {
    guard let bytes = try? Files.read(directory.file("nats.pid"), limitBytes: 32),
      let number = pid_t(String(decoding: bytes.filter { $0 > 32 }, as: UTF8.self)),
      ProcessStatus(pid: number)?.isAlive == true,
      let words = try? Files.read("/proc/\(number)/cmdline", limitBytes: 65_536),
      String(decoding: words, as: UTF8.self).contains(directory.path)
    else { return nil }
    return number
  }

  /// Ends the server and waits until it is gone; `SIGKILL` is a crash.
  package func stop(_ signal: Int32 = SIGTERM) {
    guard let pid else { return }
    kill(pid, signal)
    for _ in 0..<2000 where self.pid == pid { usleep(5000) }
    if self.pid == pid { kill(pid, SIGKILL) }
  }

  /// It greets whoever connects.
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
    var answer = [UInt8](repeating: 0, count: 5)
    return isConnected && recv(descriptor, &answer, 5, 0) == 5 && answer.elementsEqual("INFO ".utf8)
  }
}
