import ArgumentParser
import AsyncHTTPClient
import Core
import Hummingbird

extension Service: ExpressibleByArgument {}

struct Serve: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Run one service until SIGTERM; requests that have begun are finished.")

  @Argument(help: "accounts, ledger, sessions, statements, gateway, events or notices.") var service: Service
  @Option(help: "The service's configuration, a JSON file.") var config: String

  func run() async throws {
    let settings = try ServiceConfiguration.read(config)
    switch service {
    case .accounts:
      try await serve(service, on: settings.port, AccountsService(store: SQLStore(settings.requireStore())).routes())
    case .ledger:
      try await serve(service, on: settings.port, LedgerService(store: SQLStore(settings.requireStore())).routes())
    case .sessions:
      try await serve(
        service, on: settings.port, SessionsService(store: SessionStore(settings.requireStore())).routes())
    case .statements:
      let statements = try StatementsService(
        settings.requireStore(), failFirstReady: settings.failFirstReady ?? 0)
      try await serve(service, on: settings.port, statements.routes())
    case .events:
      try await serve(service, on: settings.port, EventsService(settings.requireStore()).routes())
    case .notices:
      try await serve(service, on: settings.port, NoticesService(store: SQLStore(settings.requireStore())).routes())
    case .gateway:
      let client = makeClient()
      do {
        let seed = String(SystemRandomness().next() >> 24, radix: 36)
        try await serve(service, on: settings.port, GatewayService(settings, client: client, seed: seed).routes())
      } catch {
        try await client.shutdown()
        throw error
      }
      try await client.shutdown()
    }
  }
}

struct Initialize: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "init", abstract: "Create a service's schema and its first data; harmless if they exist.")

  @Argument(help: "accounts, ledger, sessions, statements, gateway, events or notices.") var service: Service
  @Option(help: "The service's configuration, a JSON file.") var config: String

  func run() throws {
    let settings = try ServiceConfiguration.read(config)
    switch service {
    case .accounts:
      try AccountsService.create(
        in: settings.requireStore(), accounts: settings.accounts ?? 1000,
        openingBalanceCents: settings.openingBalanceCents ?? 100_000)
    case .ledger: try LedgerService.create(in: settings.requireStore())
    case .sessions: try SessionStore.create(in: settings.requireStore())
    case .statements: try StatementsService.create(in: settings.requireStore())
    case .events: try EventConnection.create(settings.requireStore())
    case .notices: try NoticesService.create(in: settings.requireStore())
    case .gateway: break
    }
  }
}
