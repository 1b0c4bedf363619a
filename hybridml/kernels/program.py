class Program:
    def __init__(self, graph):
        self.graph = graph; self.kernels=[]
    def run(self, ext):
        from hybridml.trace.interpret import interpret
        import numpy as np
        n=len(self.graph.inputs)
        o,u = interpret(self.graph, ext[:n], ext[n:n+len(self.graph.variables)])
        u=[a.copy() for a in u]; o=[a.copy() for a in o]
        for (i,_),a in zip(self.graph.updates,u): np.copyto(ext[n+i],a)
        return o
    def facts(self): return {}
