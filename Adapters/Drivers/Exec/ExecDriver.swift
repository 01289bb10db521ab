import Core
import DriverKit
import IO

/// Makes drivers that are programs of somebody else's, speaking JSON lines.
package enum ExecDriverFactory: DriverFactory {
  package static let name: DriverName = "exec"

  package static let summary =
    "Any store, by a program of yours that speaks JSON lines: see docs/formats/driver-protocol.md."

  package static let options: [OptionSchema] = [
    OptionSchema(
      "command", .string, required: true, help: "The program and its arguments, word by word, without a shell."),
    OptionSchema("settings", .strings, help: "What the program is told, as name=value."),
    OptionSchema("secrets", .strings, help: "Secrets it is told, as name=file:… or name=env:…."),
    OptionSchema(
      "state", .path, help: "The file or directory that is the store's state; Salvor swaps it. Else the program does."),
    OptionSchema("workspace", .path, help: "A directory for restores, where there is no 'state'."),
    OptionSchema("timeout", .duration, default: "1h", help: "How long a copy, a restore, a start or a stop may take."),
  ]

  package static func make(_ configuration: StoreConfiguration, in environment: DriverEnvironment) throws(DriverError)
    -> any DataStoreDriver
  {
    let store = configuration.name
    let command = splitCommand(try configuration.required("command"))
    guard !command.isEmpty else { throw .badOption(store: store, option: "command", why: "is empty") }
    func pairs(_ option: String) throws(DriverError) -> [String: String] {
      var result: [String: String] = [:]
      for text in configuration.strings(option) {
        guard let sign = text.firstIndex(of: "="), sign != text.startIndex else {
          throw .badOption(store: store, option: option, why: "needs name=value, not '\(text)'")
        }
        let name = String(text[..<sign])
        guard result.updateValue(String(text[text.index(after: sign)...]), forKey: name) == nil else {
          throw .badOption(store: store, option: option, why: "names '\(name)' twice")
        }
      }
      return result
    }
    func path(_ option: String) throws(DriverError) -> String? {
      guard var path = configuration.string(option) else { return nil }
      while path.count > 1, path.hasSuffix("/") { path.removeLast() }
      guard path.hasPrefix("/"), path != "/" else {
        throw .badOption(store: store, option: option, why: "must be an absolute path below /")
      }
      return path
    }
    var secrets: [String: SecretReference] = [:]
    for (name, text) in try pairs("secrets") {
      guard let reference = SecretReference(text) else {
        throw .badOption(
          store: store, option: "secrets", why: "'\(name)' must be a reference: file:…, env:… or command:…")
      }
      secrets[name] = reference
    }
    if configuration.string("timeout") != nil, configuration.duration("timeout") == nil {
      throw .badOption(store: store, option: "timeout", why: "must be a duration, such as 10m")
    }
    let (state, workspace) = (try path("state"), try path("workspace"))
    guard (state == nil) != (workspace == nil) else {
      throw .badOption(
        store: store, option: "state",
        why: state == nil ? "is required, or 'workspace' where the program swaps by itself" : "excludes 'workspace'")
    }
    return ExecDriver(
      store: store, command: command, settings: try pairs("settings"), secrets: secrets, state: state,
      workspace: workspace, timeout: configuration.duration("timeout") ?? .seconds(3600), environment: environment)
  }
}

/// A store that only its program knows. Every call is a process of its own, and so is a capture.
struct ExecDriver: DataStoreDriver {
  var store: StoreName
  var command: [String]
  var settings: [String: String]
  var secrets: [String: SecretReference]
  var state: String?
  var workspace: String?
  var timeout: Duration
  var environment: DriverEnvironment

  /// For calls that only look.
  static let shortly = Duration.seconds(60)

  // MARK: Conversations

  /// Starts the program and agrees on the protocol.
  func open() async throws(DriverError) -> (program: Program, hello: Wire.Hello) {
    var told: [String: JSONValue] = [:]
    for (name, reference) in secrets {
      let secret: Secret
      do throws(AnyFailure) { secret = try await environment.resolve(reference) } catch { throw DriverError(error) }
      told[name] = .string(secret.withBytes { String(decoding: $0, as: UTF8.self) })
    }
    let program = try await Program.start(command, pool: environment.pool, time: environment.time)
    do throws(DriverError) {
      var fields: [String: JSONValue] = [
        "protocols": .array([.integer(Int64(Wire.version))]), "store": .string("\(store)"),
        "settings": .object(settings.mapValues { .string($0) }), "secrets": .object(told),
      ]
      if let state { fields["state"] = .string(state) }
      let hello = try await program.call("hello", fields, as: Wire.Hello.self, within: .seconds(10))
      guard hello.protocol == Wire.version else {
        throw .unsupported(
          "\(program.name) speaks version \(hello.protocol) of the protocol, and this Salvor \(Wire.version)")
      }
      return (program, hello)
    } catch {
      await program.close()
      throw error
    }
  }

  /// One call in a conversation of its own.
  func ask<T: Decodable & Sendable>(
    _ call: String, _ fields: [String: JSONValue] = [:], as type: T.Type, within limit: Duration = Self.shortly,
    progress: @escaping @Sendable (Int64) -> Void = { _ in }
  ) async throws(DriverError) -> T {
    let program = try await open().program
    let result: Result<T, DriverError>
    do throws(DriverError) {
      result = .success(try await program.call(call, fields, as: type, within: limit, progress: progress))
    } catch { result = .failure(error) }
    await program.close()
    return try result.get()
  }

  // MARK: Asking

  func traits() async throws(DriverError) -> DriverTraits {
    let traits = try await ask("traits", as: Wire.Traits.self)
    let hold: HoldSupport
    switch (traits.hold.held, traits.hold.moment, traits.hold.outside) {
    case (let how?, nil, nil): hold = .held(how: how)
    case (nil, let how?, nil): hold = .moment(how: how)
    case (nil, nil, let why?): hold = .outside(why: why)
    default: throw .engineFailed("the program says none of 'held', 'moment' and 'outside', or several", log: "")
    }
    return DriverTraits(
      version: traits.version ?? "", hold: hold, sizeBytes: traits.sizeBytes, notes: traits.notes ?? [])
  }

  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession {
    ExecCapture(self, context)
  }

  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    let milliseconds = max(1, limit.timeout.wholeNanoseconds / 1_000_000)
    let fields: [String: JSONValue] = [
      "text": .string(text), "rows": .integer(Int64(limit.rows)), "timeoutMilliseconds": .integer(milliseconds),
    ]
    let answer = try await ask("query", fields, as: Wire.Rows.self, within: limit.timeout + .seconds(5))
    var rows = answer.rows
    guard rows.allSatisfy({ $0.count == answer.columns.count }) else {
      throw .engineFailed("the program answers a query with rows of different widths", log: "")
    }
    let isLonger = rows.count > limit.rows
    if isLonger { rows.removeSubrange(limit.rows...) }
    return QueryResult(columns: answer.columns, rows: rows, isTruncated: isLonger || answer.truncated ?? false)
  }

  func start() async throws(DriverError) { _ = try await ask("start", as: Program.Nothing.self, within: timeout) }

  func stop() async throws(DriverError) { _ = try await ask("stop", as: Program.Nothing.self, within: timeout) }
}
