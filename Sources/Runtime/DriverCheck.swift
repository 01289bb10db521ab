import Core
package import DriverContract
import DriverExec
import DriverKit
import IO
import Synchronization

/// Tries a driver's program: the protocol first, then every promise of the port.
package struct DriverCheck: Sendable {
  package typealias Outcome = ContractRun<ProgramFixture>.Outcome

  let command: [String]
  let settings: [String: String]
  let host: Machine

  package init(command: [String], settings: [String: String], host: Machine) {
    (self.command, self.settings, self.host) = (command, settings, host)
  }

  /// - Parameter told: Called after each promise.
  package func run(told: @escaping @Sendable (Outcome) -> Void) async throws -> [Outcome] {
    let environment = host.driverEnvironment
    let subject = ProgramSubject(command: command, settings: settings, environment: environment)
    let run = ContractRun<ProgramFixture>()
    let spoken = try await run.run(protocolPromises(environment), time: host.time, told: told)
    guard spoken.allSatisfy(\.isKept) else { return spoken }
    return try await ProgramFixture.$subject.withValue(subject) {
      // What kind of store it is, is asked of one that is made for it.
      let kind = Found()
      let made = try await run.run(
        [
          .init("a store for tests is made") {
            let fixture = try await ProgramFixture.start()
            let found = fixture.kind
            kind.set(found)
            let records = try await fixture.records()
            await fixture.shutDown()
            try promise(!records.isEmpty, "test.begin writes a few records")
          }
        ], time: host.time, told: told)
      guard let kind = kind.value, made.allSatisfy(\.isKept) else { return spoken + made }
      return try await spoken + made + run.run(run.promises(kind), time: host.time, told: told)
    }
  }

  private func protocolPromises(_ environment: DriverEnvironment) -> [ContractRun<ProgramFixture>.Promise] {
    let (command, settings) = (command, settings)
    @Sendable func talking<T: Sendable>(_ body: (ProgramConversation) async throws -> T) async throws -> T {
      let conversation = try await ProgramConversation.begin(command, in: environment)
      do {
        let value = try await body(conversation)
        _ = await conversation.end()
        return value
      } catch {
        _ = await conversation.end()
        throw error
      }
    }
    return [
      .init("version 1 is agreed on") {
        try await talking { program in
          let hello = try await program.hello(settings: settings, state: nil)
          try promise(hello["protocol"]?.integer == 1, "hello is answered with 'protocol': 1")
          try promise(hello["program"]?.string?.isEmpty == false, "hello is answered with the program's name")
        }
      },
      .init("another version is refused") {
        try await talking { program in
          do {
            _ = try await program.hello(settings: settings, state: nil, more: ["protocols": [999]])
          } catch DriverError.unsupported { return }
          throw ContractBroken("a program that speaks none of the versions it is offered says 'unsupported'")
        }
      },
      .init("unknown fields are ignored") {
        try await talking { program in
          _ = try await program.hello(
            settings: settings, state: nil,
            more: ["future": ["deep": [1, "x"]], "text": "a \"quoted\" {brace}\n\u{1F600}"])
        }
      },
      .init("unknown calls are refused, and the conversation goes on") {
        try await talking { program in
          _ = try await program.hello(settings: settings, state: nil)
          for _ in 1...2 {
            do {
              _ = try await program.call("future.call")
            } catch DriverError.unsupported { continue }
            throw ContractBroken("a call the program doesn't know is answered with 'unsupported'")
          }
        }
      },
      .init("the program ends when its input does") {
        let conversation = try await ProgramConversation.begin(command, in: environment)
        _ = try await conversation.hello(settings: settings, state: nil)
        let ending = await conversation.end()
        try promise(ending == "ended with code 0", "at the end of its input the program ends with code 0; it \(ending)")
      },
    ]
  }
}

/// What kind of store was found.
private final class Found: Sendable {
  private let kind = Mutex<ContractRun<ProgramFixture>.Kind?>(nil)
  var value: ContractRun<ProgramFixture>.Kind? { kind.withLock { $0 } }
  func set(_ new: ContractRun<ProgramFixture>.Kind) { kind.withLock { $0 = new } }
}

/// The program under test.
struct ProgramSubject: Sendable {
  var command: [String]
  var settings: [String: String]
  var environment: DriverEnvironment
}

/// A store that a driver's program makes for tests, and writes to by its `test.` calls.
package struct ProgramFixture: DriverFixture {
  @TaskLocal static var subject: ProgramSubject?

  private let subject: ProgramSubject
  private let directory: String
  private let settings: [String: String]
  private let state: String?
  let kind: ContractRun<ProgramFixture>.Kind
  package let livePaths: [String]

  package var isHeld: Bool { kind.isHeld }

  package static func start() async throws -> ProgramFixture {
    guard let subject else { throw ContractBroken("no program to test") }
    let directory = "/tmp/salvor-driver-" + Hex.encode(subject.environment.randomness.bytes(8))
    try await subject.environment.pool.run { () throws(SystemFailure) in
      try Files.createDirectory(directory, mode: 0o755)
    }
    do {
      let made = try await ask(subject, subject.settings, nil, "test.begin", ["directory": .string(directory)])
      return try ProgramFixture(subject, directory, made)
    } catch {
      await subject.environment.pool.run { try? Files.removeTree(directory) }
      throw error
    }
  }

  private init(_ subject: ProgramSubject, _ directory: String, _ made: JSONValue) throws {
    (self.subject, self.directory) = (subject, directory)
    let told = made["settings"]?.object ?? [:]
    settings = subject.settings.merging(told.compactMapValues(\.string)) { _, new in new }
    state = made["state"]?.string
    livePaths = made["paths"]?.array?.compactMap(\.string) ?? [state].compactMap { $0 }
    guard let isHeld = made["held"]?.bool, let hasServer = made["server"]?.bool else {
      throw ContractBroken("test.begin says whether the store is 'held' and whether it has a 'server'")
    }
    let query = made["query"].flatMap { query in
      query["reading"]?.string.map { (reading: $0, writing: query["writing"]?.array?.compactMap(\.string) ?? []) }
    }
    kind = .init(isHeld: isHeld, hasServer: hasServer, query: query)
    guard livePaths.allSatisfy({ $0.hasPrefix(directory + "/") }) else {
      throw ContractBroken("a store for tests stays in the directory it is given: \(livePaths)")
    }
  }

  private static func ask(
    _ subject: ProgramSubject, _ settings: [String: String], _ state: String?, _ call: String,
    _ fields: [String: JSONValue] = [:]
  ) async throws -> JSONValue {
    let program = try await ProgramConversation.begin(subject.command, in: subject.environment)
    do {
      _ = try await program.hello(settings: settings, state: state)
      let answer = try await program.call(call, fields)
      _ = await program.end()
      return answer
    } catch {
      _ = await program.end()
      throw error
    }
  }

  private func ask(_ call: String, _ fields: [String: JSONValue] = [:]) async throws -> JSONValue {
    try await Self.ask(subject, settings, state, call, fields)
  }

  package func driver(_ variant: DriverVariant) throws -> any DataStoreDriver {
    var (settings, place) = (settings, state)
    var workspace: String? = state == nil ? livePaths.first.map { Files.parent(of: $0) } ?? directory : nil
    switch variant {
    case .usual: break
    case .withoutStop: settings["stop"] = "none"
    case .liveState(let below):
      if place != nil { place = below + "/state" } else { workspace = below }
    }
    var options: [String: JSONValue] = [
      "command": .string(
        subject.command.map { "'" + $0.replacing("'", with: "'\"'\"'") + "'" }.joined(separator: " ")),
      "settings": .array(settings.sorted { $0.key < $1.key }.map { .string("\($0.key)=\($0.value)") }),
      "timeout": "60s",
    ]
    if let place { options["state"] = .string(place) }
    if let workspace { options["workspace"] = .string(workspace) }
    return try ExecDriverFactory.make(StoreConfiguration(name: "test", options: options), in: subject.environment)
  }

  package func write(_ number: Int64, payload: String) async throws {
    _ = try await ask("test.write", ["number": .integer(number), "payload": .string(payload)])
  }

  package func records() async throws -> Set<Int64> {
    guard let numbers = try await ask("test.records")["numbers"]?.array else {
      throw ContractBroken("test.records is answered with 'numbers'")
    }
    return Set(numbers.compactMap(\.integer))
  }

  package func destroyLive() async throws {
    let paths = livePaths
    try await subject.environment.pool.run { () throws(SystemFailure) in
      for path in paths { try Files.removeTree(path) }
    }
  }

  package func shutDown() async {
    _ = try? await ask("test.end")
    await subject.environment.pool.run { try? Files.removeTree(directory) }
  }
}
