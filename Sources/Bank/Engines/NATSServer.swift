import Core
import DriverNATS
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A small NATS server with JetStream.
struct NATSServer {
  let facts: EngineFacts.NATS

  static func facts(in root: String, port: Int) throws -> EngineFacts.NATS {
    EngineFacts.NATS(
      host: "127.0.0.1", port: port, binary: try installedProgram("nats-server"), storeDirectory: "\(root)/data/nats",
      configFile: "\(root)/config/nats.conf", runAs: try ServerUser.choose("nats", "nobody"))
  }

  func up() throws {
    let user = try ServerUser(facts.runAs)
    try user.ownDirectory(facts.storeDirectory)
    try Files.createDirectory(Files.parent(of: facts.configFile))
    if !Files.exists(facts.configFile) {
      let settings = """
        host: "\(facts.host)"
        port: \(facts.port)
        jetstream { store_dir: "\(facts.storeDirectory)" }
        pid_file: "\(pidFile)"
        log_file: "\(facts.storeDirectory)/server.log"

        """
      try Files.replace(facts.configFile, with: Array(settings.utf8), mode: 0o644)
    }
    if !answers {
      // It never leaves the foreground by itself.
      try user.runChecked(
        ["sh", "-c", "\"$0\" -c \"$1\" </dev/null >/dev/null 2>&1 &", facts.binary, facts.configFile],
        log: "\(root)/log/nats-commands.log")
    }
    try waitUntil("nats at port \(facts.port) does not answer: see \(facts.storeDirectory)/server.log") { answers }
  }

  func down() throws {
    guard let pid else { return }
    guard kill(pid, SIGTERM) == 0 || errno == ESRCH else { throw SystemFailure("kill", path: "process \(pid)") }
    try waitUntil("nats at port \(facts.port) does not stop") { self.pid != pid }
  }

  private var root: String { Files.parent(of: Files.parent(of: facts.storeDirectory)) }
  private var pidFile: String { "\(facts.storeDirectory)/server.pid" }

  /// The server's process; a file that a killed one left may name somebody else's.
  private var pid: pid_t? {
    guard let text = try? Files.read(pidFile, limitBytes: 32), let pid = pid_t(text.asLine),
      let words = try? Files.read("/proc/\(pid)/cmdline", limitBytes: 1 << 16),
      words.split(separator: 0).contains(where: { $0.elementsEqual(facts.configFile.utf8) })
    else { return nil }
    return pid
  }

  /// Between listening and having read the streams JetStream doesn't answer yet.
  private var answers: Bool {
    guard
      let connection = try? EventConnection(StoreSettings(kind: .nats, host: facts.host, port: facts.port))
    else { return false }
    return connection.hasJetStream
  }
}

extension [UInt8] {
  fileprivate var asLine: String { String(decoding: prefix { $0 > 32 }, as: UTF8.self) }
}
