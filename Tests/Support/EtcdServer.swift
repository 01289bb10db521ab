import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A real etcd of one member of a test's own, on loopback; ended by its pid.
///
/// Its configuration is a file that a driver can start it again with. All calls block; run them on ``IO/BlockingPool``.
package final class EtcdServer: Sendable {
  package let directory: TemporaryDirectory
  package let port: UInt16
  package let peerPort: UInt16
  package var dataDirectory: String { directory.file("data") }
  package var configFile: String { directory.file("etcd.json") }
  package var endpoint: String { "http://127.0.0.1:\(port)" }
  package var peerURL: String { "http://127.0.0.1:\(peerPort)" }

  package init() throws {
    let directory = try TemporaryDirectory("etcd")
    self.directory = directory
    var attempts = 5
    while true {
      // Between finding free ports and taking them somebody else may.
      let (port, peerPort) = (try freePort(), try freePort())
      let (client, peer) = ("http://127.0.0.1:\(port)", "http://127.0.0.1:\(peerPort)")
      let settings = """
        {"name": "member", "data-dir": "\(directory.file("data"))", "listen-client-urls": "\(client)",
         "advertise-client-urls": "\(client)", "listen-peer-urls": "\(peer)", "initial-advertise-peer-urls": "\(peer)",
         "initial-cluster": "member=\(peer)", "enable-grpc-gateway": true, "logger": "zap", "log-outputs": ["\(directory.file("etcd.log"))"]}
        """
      try Files.replace(directory.file("etcd.json"), with: Array(settings.utf8))
      attempts -= 1
      do {
        try Self.start(directory, port)
        (self.port, self.peerPort) = (port, peerPort)
        return
      } catch  where attempts > 0 {
        try Files.removeTree(directory.file("data"))
      }
    }
  }

  deinit { stop() }

  package func start() throws { try Self.start(directory, port) }

  private static func start(_ directory: TemporaryDirectory, _ port: UInt16) throws {
    try Files.removeTree(directory.file("etcd.log"))
    let process = try GatedProcess(
      .init(
        path: "/usr/bin/env", arguments: ["env", "etcd", "--config-file", directory.file("etcd.json")],
        environment: ["PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"], workingDirectory: "/",
        output: try File("/dev/null", O_WRONLY), isDetached: true))
    try process.begin()
    for _ in 0..<4000 {
      let log = (try? Files.read(directory.file("etcd.log"))).map { String(decoding: $0, as: UTF8.self) } ?? ""
      if log.contains("serving client traffic insecurely") { return }
      if log.contains("\"level\":\"fatal\"") || ProcessStatus(pid: process.pid)?.isAlive != true { break }
      usleep(5000)
    }
    kill(process.pid, SIGKILL)
    throw SystemFailure("connect", path: "etcd on port \(port)", number: ETIMEDOUT)
  }

  /// The pid, while the server runs.
  package var pid: pid_t? { Self.pid(directory) }

  private static func pid(_ directory: TemporaryDirectory) -> pid_t? {
    let wanted = Array(directory.file("etcd.json").utf8)
    for name in (try? Files.names(in: "/proc")) ?? [] {
      guard let number = pid_t(name.lossyText),
        let words = try? Files.read("/proc/\(number)/cmdline", limitBytes: 65_536),
        words.split(separator: 0).contains(where: { $0.elementsEqual(wanted) }),
        words.prefix(4).elementsEqual("etcd".utf8)
          || words.split(separator: 0).first?.suffix(5).elementsEqual("/etcd".utf8) == true,
        ProcessStatus(pid: number)?.isAlive == true
      else { continue }
      return number
    }
    return nil
  }

  /// Ends the server and waits until it is gone; `SIGKILL` is a crash.
  package func stop(_ signal: Int32 = SIGTERM) {
    guard let pid else { return }
    kill(pid, signal)
    for _ in 0..<2000 where ProcessStatus(pid: pid)?.isAlive == true { usleep(5000) }
    if ProcessStatus(pid: pid)?.isAlive == true { kill(pid, SIGKILL) }
  }
}
