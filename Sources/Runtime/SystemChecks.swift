import AsyncHTTPClient
import Catalog
import Core
import DriverKit
import IO
import Load
import Recovery
import StateKit
import Subprocess
import Validation

/// The checks of one system's catalog, against what is live.
package struct SystemChecks: Sendable {
  private let system: ManagedSystem
  private let runner: CheckRunner

  init(_ system: ManagedSystem) {
    self.system = system
    let secrets = system.host.secrets
    let (catalog, host) = (system.catalog, system.host)
    runner = CheckRunner(
      CheckPorts(
        time: system.host.time, driver: { try system.driver(of: $0) },
        execute: { try await execute($0, secrets) }, get: { try await get($0, $1) },
        workflow: { name in
          var request = LoadRuns.Request(name)
          // In a drill there is nothing to harm. On what was restored in earnest, what a check leaves behind stays.
          request.hasConsent = host.isDrill
          do { return try await LoadRuns(catalog, host: host).run(request).answer } catch LoadError.consent {
            var answer = WorkflowAnswer(
              examined: 0, broken: [], summary: "not gone through: workflow '\(name)' writes, and this is no drill")
            answer.isRefused = true
            return answer
          }
        }))
  }

  /// A service's own validators. A name the catalog doesn't know could not be checked.
  package func validate(_ name: ServiceName) async -> [Recovery.CheckOutcome] {
    guard let service = system.catalog.service(name) else {
      return [Recovery.CheckOutcome(name: name.text, verdict: .couldNotCheck, summary: "there is no such service")]
    }
    return await runner.validate(service).map { Recovery.CheckOutcome($0) }
  }

  /// Whether services work with the schemas that are there.
  func gates(of services: [ServiceName]) async -> [Recovery.CheckOutcome] {
    var outcomes: [Recovery.CheckOutcome] = []
    for service in services.compactMap({ system.catalog.service($0) }) {
      for gate in service.schema ?? [] {
        outcomes.append(Recovery.CheckOutcome(await runner.check(gate, of: service.name)))
      }
    }
    return outcomes
  }

  /// Metrics of these stores, beside what they were.
  func metrics(of stores: Set<StoreName>, _ context: MetricContext?) async -> [Recovery.CheckOutcome] {
    guard let context else { return [] }
    var outcomes: [Recovery.CheckOutcome] = []
    for metric in system.catalog.metrics where stores.contains(metric.source.store) {
      outcomes.append(Recovery.CheckOutcome(await runner.check(metric, context)))
    }
    return outcomes
  }

  /// What a query says now; `nil` if nobody answers.
  func reading(_ query: StoreQuery, within limit: Duration) async -> String? {
    try? await runner.value(query, timeout: limit)
  }

  package func invariants(_ names: Set<CheckName>) async -> [Recovery.CheckOutcome] {
    await runner.check(system.catalog.invariants.filter { names.contains($0.name) }).map { Recovery.CheckOutcome($0) }
  }
}

extension ManagedSystem {
  package var checks: SystemChecks { SystemChecks(self) }
}

extension Recovery.CheckOutcome {
  init(_ report: CheckReport) {
    var violations: Int64 = 0
    if case .failed(let found) = report.outcome { violations = found.reduce(0) { $0 + $1.count } }
    let verdict: Verdict =
      switch report.verdict {
      case .passed: .passed
      case .failed: .failed
      case .warned: .warned
      case .couldNotCheck: .couldNotCheck
      }
    self.init(
      name: report.name, verdict: verdict, summary: report.summary, violations: violations, detail: report.detail)
  }
}

private let answerLimitBytes = 16 << 20

/// - Parameters:
///   - input: What the program reads on its standard input.
///   - more: Variables beside the command's own.
func execute(
  _ command: Command, _ secrets: SecretResolver, input: [UInt8] = [], adding more: [String: String] = [:]
) async throws -> CommandAnswer {
  let declared = ServiceCommand(command)
  var plain = ChildEnvironment.variables(declared.environment).merging(more) { $1 }
  for (name, reference) in declared.secrets { plain[name] = try await secrets.resolve(reference).revealed() }
  let variables = Dictionary(uniqueKeysWithValues: plain.map { (Environment.Key(stringLiteral: $0.key), $0.value) })
  var words = command.words
  // Not by the options of Subprocess, which changes the user where the C library may wait for ever.
  if let user = command.user {
    words = ["setpriv", "--reuid=\(user)", "--regid=\(user)", "--init-groups", "--"] + words
  }
  guard let program = words.first else { throw SecretFailure.badCommand(.command("")) }
  // Subprocess ends the whole program if a child doesn't read what is written to it.
  let given = try File.unnamed(input)
  let result = try await SystemTime().withTimeLimit(command.timeout) { [words] in
    try await Subprocess.run(
      program.contains("/") ? .path(.init(program)) : .name(program),
      arguments: Arguments(Array(words.dropFirst())),
      environment: .custom(variables), workingDirectory: command.workingDirectory.map { .init($0) },
      input: .fileDescriptor(.init(rawValue: given.descriptor), closeAfterSpawningProcess: false),
      output: .bytes(limit: answerLimitBytes), error: .discarded)
  }
  let output = String(decoding: result.standardOutput, as: UTF8.self)
  switch result.terminationStatus {
  case .exited(let code): return CommandAnswer(status: Int(code), output: output)
  // As shells count.
  case .signaled(let number): return CommandAnswer(status: 128 + Int(number), output: output)
  }
}

private func get(_ url: String, _ timeout: Duration) async throws -> PageAnswer {
  var request = HTTPClientRequest(url: url)
  request.headers.add(name: "user-agent", value: "salvor")
  let response = try await HTTPClient.shared.execute(request, timeout: .nanoseconds(timeout.wholeNanoseconds))
  let body = try await SystemTime().withTimeLimit(timeout) { try await response.body.collect(upTo: answerLimitBytes) }
  return PageAnswer(status: Int(response.status.code), body: String(buffer: body))
}
