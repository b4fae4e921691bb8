from cupy.cuda import Device as Device
