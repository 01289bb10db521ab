import ArgumentParser
import Console
import Core
import Foundation
import IO
import Runtime
import StateKit

/// Which catalog, and where state is kept.
struct SystemOptions: ParsableArguments {
  @Option(
    name: .shortAndLong,
    help: "Catalog: a YAML file or a folder of them (default: $SALVOR_CATALOG, ./salvor.yaml, ./salvor).",
    completion: .file(extensions: ["yaml", "yml"]))
  var catalog: String?

  @Option(
    help: "Where journal and evidence are kept (default: $SALVOR_STATE, ~/.local/state/salvor).", completion: .directory
  )
  var state: String?

  var environment: [String: String] { ProcessInfo.processInfo.environment }

  var host: Machine {
    Machine(
      environment: environment, name: environment["SALVOR_HOST"] ?? ProcessInfo.processInfo.hostName,
      stateDirectory: absolute(state ?? Machine.defaultStateDirectory(environment)),
      log: { standardError($0 + "\n") })
  }

  var catalogPath: String {
    if let catalog { return catalog }
    if let path = environment["SALVOR_CATALOG"], !path.isEmpty { return path }
    return Files.exists("salvor.yaml") ? "salvor.yaml" : Files.isDirectory("salvor") ? "salvor" : "salvor.yaml"
  }

  func load() async throws -> ManagedSystem {
    let host = host
    return try ManagedSystem(try await CatalogFiles.load(catalogPath, pool: host.pool), host: host)
  }

  func journal() async throws -> any RunJournal { try await Registry.journal(host) }
}

/// A path that still means the same after a change of directory.
func absolute(_ path: String) -> String {
  path.hasPrefix("/") ? path : FileManager.default.currentDirectoryPath + "/" + path
}

func parseTime(_ text: String) throws -> Timestamp {
  guard let time = Timestamp(text) else {
    throw ValidationError("'\(text)' is not a time; write it as RFC 3339, such as 2026-11-21T08:00:00Z")
  }
  return time
}

func parseServices(_ names: [String]) throws -> Set<ServiceName> {
  Set(
    try names.map { text in
      guard let name = ServiceName(text) else { throw ValidationError("'\(text)' can't be a service's name") }
      return name
    })
}

/// How progress of long work is shown.
struct ProgressDisplay: Sendable {
  let line: ProgressLine
  let style: Style

  init(_ output: OutputOptions, _ host: Machine) {
    style = Style.detect(2, environment: host.environment)
    line = ProgressLine(style: style, time: host.time, isQuiet: output.quiet)
  }
}
