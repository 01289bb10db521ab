import Core

struct TrafficRouteManifest: Sendable {
  var description: String?
  var haproxy: TrafficRoute.HAProxy?
  var nginx: TrafficRoute.NGINX?
  var envoy: TrafficRoute.Envoy?
  var pgbouncer: TrafficRoute.PgBouncer?
  var exec: Command?
  var backends: [String: String] = [:]
  var failover: PolicyName?
  var patience: Duration = .seconds(3)

  static let table = Table(
    "TrafficRoute", "Where something is routed: which router, and what it calls each backend.",
    initial: { TrafficRouteManifest() },
    choices: [.exactlyOne("haproxy", "nginx", "envoy", "pgbouncer", "exec")],
    finish: { record, node, decoding in
      for name in record.backends.keys.sorted() where MemberName(name) == nil {
        decoding.report(
          .badName, at: node.mark, "backend '\(excerpt(name))' is not a name",
          "use 1 to 63 of a-z, 0-9 and '-', with no '-' at either end")
      }
      if record.backends.count < 2 {
        decoding.report(
          .missing, at: node.mark, "'backends' names fewer than two", "name the sides traffic moves between")
      }
      if let exec = record.exec, exec.user != nil || exec.workingDirectory != nil || !exec.environment.isEmpty {
        decoding.report(
          .badValue, at: node.mark, "a router's program is given its words alone",
          "leave out env, user and workingDirectory")
      }
      let isByAddress = record.nginx != nil || record.envoy != nil || record.pgbouncer != nil
      for (name, place) in record.backends.sorted(by: { $0.key < $1.key }) where isByAddress && Endpoint(place) == nil {
        decoding.report(
          .badValue, at: node.mark, "backend '\(excerpt(name))' is at '\(excerpt(place))', which is not host:port",
          "write it as 10.0.0.1:5432")
      }
    },
    fields: [
      Field("description", \.description, Codec<String>.phrase.optional, "What it is, for people."),
      Field("haproxy", \.haproxy, HAProxyManifest.codec.optional, "HAProxy, over its runtime API."),
      Field("nginx", \.nginx, NGINXManifest.codec.optional, "nginx, by a file that it includes."),
      Field("envoy", \.envoy, EnvoyManifest.codec.optional, "Envoy, by a file of endpoints that it watches."),
      Field("pgbouncer", \.pgbouncer, PgBouncerManifest.codec.optional, "PgBouncer, over its admin console."),
      Field("exec", \.exec, Codec<Command>.command.optional, "A program that speaks for a router; its words alone."),
      Field(
        "backends", \.backends, Codec<String>.phrase.dictionary, required: true,
        "By member or side: what the router calls it; a server's name, or `host:port`."),
      Field(
        "failover", \.failover, Codec<PolicyName>.name.optional,
        "The failover policy whose members the backends are; its agents close and open them."),
      Field(
        "patience", \.patience, .positiveDuration, default: "`3s`",
        "How long the router may take to answer, and a change to show."),
    ])
}

struct HAProxyManifest: Sendable {
  var socket: String?
  var backend: String?
  var stateFile: String?

  static let table = Table(
    "HAProxy", "A backend of an HAProxy.", initial: { HAProxyManifest() },
    fields: [
      Field(
        "socket", \.socket, Codec<String>.phrase.optional, required: true,
        "Its stats socket with `level admin`: an absolute path, or `host:port`."),
      Field("backend", \.backend, Codec<String>.phrase.optional, required: true, "HAProxy's own name for it."),
      Field(
        "stateFile", \.stateFile, Codec<String>.path.optional,
        "Written after each change, for `load-server-state-from-file`: what was told survives a reload."),
    ])

  static let codec = Codec<TrafficRoute.HAProxy>(.record(table.shape)) { node, decoding in
    guard let read = table.read(node, &decoding), let socket = read.socket, let backend = read.backend else {
      return nil
    }
    return TrafficRoute.HAProxy(socket: socket, backend: backend, stateFile: read.stateFile)
  }
}

struct NGINXManifest: Sendable {
  var upstream: String?
  var file: String?
  var echo: String?
  var pidFile = "/run/nginx.pid"
  var test = ["nginx", "-t", "-q"]

  static let table = Table(
    "NGINX", "An upstream of an nginx.", initial: { NGINXManifest() },
    fields: [
      Field("upstream", \.upstream, Codec<String>.phrase.optional, required: true, "Its name, as `proxy_pass` has it."),
      Field("file", \.file, Codec<String>.path.optional, required: true, "Written by Salvor, included by nginx."),
      Field(
        "echo", \.echo, Codec<String>.httpURL.optional, required: true,
        "A location that returns what the file says: `return 200 $salvor_NAME;`."),
      Field("pidFile", \.pidFile, Codec<String>.path, default: "`/run/nginx.pid`", "Where nginx writes its number."),
      Field("test", \.test, Codec<[String]>.words, default: "`nginx -t -q`", "What tests a configuration."),
    ])

  static let codec = Codec<TrafficRoute.NGINX>(.record(table.shape)) { node, decoding in
    guard let read = table.read(node, &decoding), let upstream = read.upstream, let file = read.file,
      let echo = read.echo
    else { return nil }
    return TrafficRoute.NGINX(upstream: upstream, file: file, echo: echo, pidFile: read.pidFile, test: read.test)
  }
}

struct EnvoyManifest: Sendable {
  var cluster: String?
  var file: String?
  var admin: String?

  static let table = Table(
    "Envoy", "A cluster of an Envoy.", initial: { EnvoyManifest() },
    fields: [
      Field("cluster", \.cluster, Codec<String>.phrase.optional, required: true, "Its name; it is of type EDS."),
      Field("file", \.file, Codec<String>.path.optional, required: true, "Written by Salvor, watched by Envoy."),
      Field("admin", \.admin, Codec<String>.httpURL.optional, required: true, "Its admin endpoint."),
    ])

  static let codec = Codec<TrafficRoute.Envoy>(.record(table.shape)) { node, decoding in
    guard let read = table.read(node, &decoding), let cluster = read.cluster, let file = read.file,
      let admin = read.admin
    else { return nil }
    return TrafficRoute.Envoy(
      cluster: cluster, file: file, admin: admin.hasSuffix("/") ? String(admin.dropLast()) : admin)
  }
}

struct PgBouncerManifest: Sendable {
  var address: Endpoint?
  var user = "pgbouncer"
  var password: SecretReference?
  var database: String?
  var file: String?
  var parameters = ""

  static let table = Table(
    "PgBouncer", "A database of a PgBouncer.", initial: { PgBouncerManifest() },
    fields: [
      Field("address", \.address, Endpoint.codec.optional, required: true, "Where PgBouncer listens."),
      Field("user", \.user, Codec<String>.phrase, default: "`pgbouncer`", "One of its `admin_users`."),
      Field("password", \.password, Codec<SecretReference>.secret.optional, "That user's password."),
      Field("database", \.database, Codec<String>.phrase.optional, required: true, "PgBouncer's own name for it."),
      Field(
        "file", \.file, Codec<String>.path.optional, required: true,
        "Written by Salvor, included by `pgbouncer.ini` below `[databases]`."),
      Field(
        "parameters", \.parameters, Codec<String>.phrase, default: "none",
        "What else its line says: `dbname=bank pool_size=20`."),
    ])

  static let codec = Codec<TrafficRoute.PgBouncer>(.record(table.shape)) { node, decoding in
    guard let read = table.read(node, &decoding), let address = read.address, let database = read.database,
      let file = read.file
    else { return nil }
    return TrafficRoute.PgBouncer(
      host: address.host, port: address.port, user: read.user, password: read.password, database: database,
      file: file, parameters: read.parameters)
  }
}

extension Resolver {
  mutating func route(_ declared: Declared<TrafficRouteManifest>) -> TrafficRoute? {
    let spec = declared.spec
    let router: TrafficRoute.Router
    if let haproxy = spec.haproxy {
      router = .haproxy(haproxy)
    } else if let nginx = spec.nginx {
      router = .nginx(nginx)
    } else if let envoy = spec.envoy {
      router = .envoy(envoy)
    } else if let pgbouncer = spec.pgbouncer {
      router = .pgbouncer(pgbouncer)
    } else if let exec = spec.exec {
      router = .exec(exec)
    } else {
      return nil
    }
    var backends: [MemberName: String] = [:]
    for (name, place) in spec.backends { if let name = MemberName(name) { backends[name] = place } }
    return TrafficRoute(
      name: CheckName(unchecked: declared.name.value), description: spec.description, router: router,
      backends: backends, failover: spec.failover, patience: spec.patience)
  }
}
