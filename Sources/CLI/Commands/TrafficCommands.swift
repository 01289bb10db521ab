import ArgumentParser
import Catalog
import Console
import Core
import Runtime
import StateKit

struct TrafficCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "traffic",
    abstract: "Look at what routers do, and tell them; confirmed by their own answers.",
    discussion: """
      EXAMPLES
        salvor traffic show
        salvor traffic move bank-web green
        salvor traffic close bank-sql a --cut
        salvor traffic weigh bank-web blue=95 green=5
      """,
    subcommands: [
      TrafficShowCommand.self, TrafficMoveCommand.self, TrafficCloseCommand.self, TrafficWeighCommand.self,
    ])
}

enum TrafficOptions {
  static func find(_ name: String, _ catalog: Catalog) throws -> TrafficRoute {
    if let found = catalog.routes.first(where: { $0.name.text == name }) { return found }
    let known = catalog.routes.map(\.name.text)
    throw CommandFailure(
      .usage,
      Report("TRAFFIC-106", "the catalog has no route '\(name)'")
        .remedy(known.isEmpty ? "add a document of kind TrafficRoute" : "it has \(known.joined(separator: ", "))"))
  }

  static func router(_ name: String, _ system: SystemOptions) async throws -> any TrafficRouter {
    try Registry.router(try find(name, try await system.load().catalog), host: system.host)
  }

  static func backend(_ text: String, _ router: any TrafficRouter) throws -> BackendName {
    guard let name = BackendName(text), router.backends.contains(name) else {
      throw TrafficError.noBackend(router.route, BackendName(unchecked: text), known: router.backends)
    }
    return name
  }
}

/// A route as it is shown.
private struct RouteSight: Encodable {
  var route: String
  var traits: RouterTraits?
  var backends: [RouteView.Backend]?
  /// Why nothing is known.
  var unknown: Report?

  func lines(_ style: Style) -> [String] {
    guard let backends else { return ["\(route)  \(style.paint("unknown", .bad)): \(unknown?.summary ?? "")"] }
    return backends.map { backend in
      let state =
        backend.isOpen ? style.paint("open", .good) + " weight \(backend.weight)" : style.paint("closed", .warning)
      let sessions = backend.sessions.map { ", \($0.of("session"))" } ?? ""
      let health = backend.isHealthy.map { $0 ? ", healthy" : ", failing the router's checks" } ?? ""
      let counted = backend.counters.map { counters in
        ", \(counters.requests) requests, \(counters.failures) failed"
          + (counters.meanMilliseconds.map { ", \($0) ms on average" } ?? "")
      }
      return "\(route)  \(backend.name)  \(state)\(sessions)\(health)\(counted ?? "")"
    }
  }
}

struct TrafficShowCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show", abstract: "Ask routers where traffic goes.",
    discussion: """
      Exits with 3 if a router doesn't answer: what isn't known is never called closed.

      EXAMPLES
        salvor traffic show
        salvor traffic show bank-web -o json
      """)

  @Argument(help: "A route of the catalog; all, if none is named.") var route: String?
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let catalog = try await system.load().catalog
    let routes = try route.map { [try TrafficOptions.find($0, catalog)] } ?? catalog.routes
    var found: [RouteSight] = []
    for declared in routes {
      let router = try Registry.router(declared, host: system.host)
      do throws(TrafficError) {
        let view = try await router.view()
        found.append(RouteSight(route: declared.name.text, traits: router.traits, backends: view.backends))
      } catch { found.append(RouteSight(route: declared.name.text, traits: router.traits, unknown: error.report)) }
    }
    let seen = found
    try output.show(seen) { style in seen.flatMap { $0.lines(style) } }
    if seen.contains(where: { $0.backends == nil }) { throw ExitStatus.incomplete }
  }
}

struct TrafficMoveCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "move", abstract: "Close all others, end their sessions, then open one.",
    discussion: """
      EXAMPLES
        salvor traffic move bank-web green
      """)

  @Argument(help: "A route of the catalog.") var route: String
  @Argument(help: "Who shall get everything.") var backend: String
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let router = try await TrafficOptions.router(route, system)
    let view = try await router.move(to: try TrafficOptions.backend(backend, router))
    let sight = RouteSight(route: route, traits: router.traits, backends: view.backends)
    try output.show(sight) { sight.lines($0) }
  }
}

struct TrafficCloseCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "close", abstract: "Send nothing new to a backend.",
    discussion: """
      EXAMPLES
        salvor traffic close bank-sql a
        salvor traffic close bank-sql a --cut
      """)

  @Argument(help: "A route of the catalog.") var route: String
  @Argument(help: "Who shall get nothing new.") var backend: String
  @Flag(help: "End the sessions it still has.") var cut = false
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let router = try await TrafficOptions.router(route, system)
    let name = try TrafficOptions.backend(backend, router)
    var view = try await router.close(name)
    if cut { view = try await router.cut(name) }
    let sight = RouteSight(route: route, traits: router.traits, backends: view.backends)
    try output.show(sight) { sight.lines($0) }
  }
}

struct TrafficWeighCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "weigh", abstract: "Give backends their parts of what comes new.",
    discussion: """
      EXAMPLES
        salvor traffic weigh bank-web blue=95 green=5
      """)

  @Argument(help: "A route of the catalog.") var route: String
  @Argument(help: "BACKEND=WEIGHT, from 0, which is closed, to 256.") var weights: [String]
  @OptionGroup var system: SystemOptions
  @OptionGroup var output: OutputOptions

  func run() async throws {
    let router = try await TrafficOptions.router(route, system)
    var wanted: [BackendName: Int] = [:]
    for text in weights {
      let parts = text.split(separator: "=", maxSplits: 1)
      guard parts.count == 2, let weight = Int(parts[1]) else {
        throw ValidationError("'\(text)' is not BACKEND=WEIGHT")
      }
      wanted[try TrafficOptions.backend(String(parts[0]), router)] = weight
    }
    let view = try await router.weigh(wanted)
    let sight = RouteSight(route: route, traits: router.traits, backends: view.backends)
    try output.show(sight) { sight.lines($0) }
  }
}
