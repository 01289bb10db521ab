import Core
import DriverKit
import IO

/// One Redis or Valkey server.
struct RedisDriver: DataStoreDriver {
  let configuration: RedisConfiguration
  let environment: DriverEnvironment

  init(_ configuration: RedisConfiguration, _ environment: DriverEnvironment) {
    (self.configuration, self.environment) = (configuration, environment)
  }

  var peer: String { configuration.peer }

  func traits() async throws(DriverError) -> DriverTraits {
    let connection = try await connect()
    let info = try await self.info(connection)
    let version = try Self.version(info)
    var notes: [String] = []
    if info["aof_enabled"] != "1" {
      notes.append("appendonly is off: what the server acknowledged since its last save is lost if it crashes")
    }
    return DriverTraits(
      version: version.description, hold: Self.hold(info), sizeBytes: info.integer("used_memory_dataset"), notes: notes)
  }

  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession {
    RedisCapture(self, context)
  }

  // MARK: What a server says about itself

  static func version(_ info: Info) throws(DriverError) -> EngineVersion {
    guard let version = EngineVersion(info) else { throw .unsupported("the server doesn't tell its version") }
    guard version.isAtLeast(6, 2) else {
      throw .unsupported("Redis \(version) can't pause writers alone; 6.2 is the oldest version this driver knows")
    }
    return version
  }

  static func hold(_ info: Info) -> HoldSupport {
    if info["cluster_enabled"] == "1" {
      return .outside(
        why: "a node of a cluster holds some of the slots only, and no pause covers all nodes at once; "
          + "each node is captured at a moment of its own")
    }
    if info["role"] != "master" {
      return .outside(
        why: "this server is a replica, and its writers are its primary's: pausing it would hold nobody; "
          + "name the primary in the catalog to make the store part of the cut")
    }
    return .held(how: "CLIENT PAUSE WRITE, which lapses by itself")
  }

  /// What settings can be read; `CONFIG` may be forbidden, and then little is known.
  func settings(_ connection: Connection) async throws(DriverError) -> (ServerSettings, note: String?) {
    do throws(WireError) {
      return (
        try await environment.pool.run { () throws(WireError) -> ServerSettings in
          var settings = ServerSettings()
          for name in ServerSettings.names {
            guard let pair = try connection.call("CONFIG", "GET", name).elements, pair.count == 2,
              let value = pair[1].text
            else { continue }
            settings.values[name] = value
          }
          return settings
        }, nil
      )
    } catch {
      guard case .refused(let text) = error else { throw error.driverError(at: peer, doing: "CONFIG GET") }
      return (ServerSettings(), "settings could not be read and are taken to be the defaults: \(text)")
    }
  }

  // MARK: Connections

  func connect(interruption: Interruption = Interruption()) async throws(DriverError) -> Connection {
    var secret: Secret?
    if let reference = configuration.password {
      do throws(AnyFailure) { secret = try await environment.resolve(reference) } catch {
        throw error.isCancellation ? .cancelled : .system(.init(error.report))
      }
    }
    let (configuration, password) = (configuration, secret)
    return try await environment.pool.run { () throws(DriverError) -> Connection in
      try Self.open(configuration, password, interruption)
    }
  }

  private static func open(
    _ configuration: RedisConfiguration, _ password: Secret?, _ interruption: Interruption
  ) throws(DriverError) -> Connection {
    var doing = "the connection"
    do throws(WireError) {
      let socket = try Socket.connect(
        host: configuration.host, port: configuration.port, patience: configuration.timeout, interruption: interruption)
      let connection = try Connection(socket, patience: configuration.timeout, interruption: interruption)
      if let password {
        doing = "AUTH"
        var words: [[UInt8]] = [Array("AUTH".utf8)]
        if let user = configuration.user { words.append(Array(user.utf8)) }
        words.append(password.withBytes { Array($0) })
        _ = try connection.call(words: words)
      }
      return connection
    } catch {
      throw error.driverError(at: configuration.peer, doing: doing)
    }
  }

  func info(_ connection: Connection) async throws(DriverError) -> Info {
    let text = try await call(connection, "INFO").text
    return Info(text ?? "")
  }

  /// One command, off the cooperative pool.
  @discardableResult
  func call(_ connection: Connection, _ words: String..., patience: Duration? = nil) async throws(DriverError) -> Reply
  {
    do throws(WireError) {
      return try await environment.pool.run { () throws(WireError) -> Reply in
        try connection.call(words: words.map { Array($0.utf8) }, patience: patience)
      }
    } catch {
      throw error.driverError(at: peer, doing: words.prefix(1).joined())
    }
  }
}
