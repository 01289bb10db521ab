import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A small Redis server; its directory holds its configuration and its data.
struct RedisServer {
  let facts: EngineFacts.Redis

  static func facts(in root: String, port: Int) throws -> EngineFacts.Redis {
    let directory = "\(root)/data/redis"
    return EngineFacts.Redis(
      host: "127.0.0.1", port: port, dataDirectory: directory, configFile: "\(root)/config/redis.conf",
      runAs: try ServerUser.choose("redis", "nobody"))
  }

  func up() throws {
    let user = try ServerUser(facts.runAs)
    try user.ownDirectory(facts.dataDirectory)
    try Files.createDirectory(Files.parent(of: facts.configFile))
    if !Files.exists(facts.configFile) {
      // Beside the data, not in it: a restore replaces the directory. Nobody but a backup ever asks for a snapshot, so
      // there are no others to wait for: without that, each backup begins five seconds late.
      let settings = """
        bind \(facts.host)
        port \(facts.port)
        dir \(facts.dataDirectory)
        dbfilename dump.rdb
        appendonly yes
        appendfsync everysec
        save ""
        repl-diskless-sync-delay 0
        daemonize no
        pidfile \(facts.dataDirectory)/redis.pid
        logfile \(facts.dataDirectory)/redis.log

        """
      try Files.replace(facts.configFile, with: Array(settings.utf8), mode: 0o644)
    }
    if !answers {
      try user.runChecked(
        ["redis-server", facts.configFile, "--daemonize", "yes"], log: "\(root)/log/redis-commands.log")
    }
    try waitUntil("redis at port \(facts.port) does not answer") { answers }
  }

  func down() throws {
    guard let connection = try? RedisConnection(settings) else { return }
    // The server closes the connection instead of answering.
    _ = try? connection.run("SHUTDOWN", "SAVE")
    try waitUntil("redis at port \(facts.port) does not stop") { !answers }
  }

  private var root: String { Files.parent(of: Files.parent(of: facts.dataDirectory)) }

  private var settings: StoreSettings { StoreSettings(kind: .redis, host: facts.host, port: facts.port) }

  private var answers: Bool {
    guard let connection = try? RedisConnection(settings) else { return false }
    return (try? connection.run("PING")) == "PONG"
  }
}
